"""Kinetics-400, 600 and 700 (Kay et al. 2017) by their CSVs `label,youtube_id,time_start,time_end,split`.

The files are `<id>_<start:06d>_<end:06d>` or `<id>`, in any container, flat or in folders of any kind. Published
checkpoints number the classes alphabetically.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..manifest import FilesByStem, Manifest, Video, key_of, manifest_of, split_named
from .classes import ClassList
from .files import needed_folder, read_rows
from .lists import split_in_name


def read_kinetics(files: Sequence[Path], folder: Path | None, classes: ClassList | None) -> Manifest:
    """Of a file `<id>` the part from time_start to time_end is used, or the whole where it is that part already."""
    on_disk = FilesByStem(needed_folder(folder, files))
    videos = [_video(f"{file}, line {line}", file, row, on_disk) for file in files for line, row in read_rows(file)]
    names = classes.names if classes else sorted({label for video in videos for label in video.labels})
    return manifest_of(", ".join(map(str, files)), videos, names)


def _video(place: str, file: Path, row: dict[str, Any], on_disk: FilesByStem) -> Video:
    label, youtube_id, split = ((row.get(name) or "").strip() for name in ("label", "youtube_id", "split"))
    part = split_named(split) if split else split_in_name(file)
    if part is None:
        raise DataError(f"{place}: split '{split}' is not one of train, validate, val, test. Mend the line")
    if not youtube_id or not (label or part == "test"):
        raise DataError(
            f"{place}: a label and a youtube_id are needed; got '{label}' and '{youtube_id}'. Mend the line"
        )
    try:
        start, end = float(row["time_start"]), float(row["time_end"])
    except (KeyError, TypeError, ValueError):
        start = end = 0.0
    if not 0 <= start < end:
        raise DataError(f"{place}: time_start and time_end are no span of seconds. Mend the line")
    labels = (label,) if label else ()
    clip = f"{youtube_id}_{int(start):06d}_{int(end):06d}"
    if trimmed := on_disk.find(clip):
        return Video(clip, trimmed, labels, part)
    if whole := on_disk.find(youtube_id):
        return Video(clip, whole, labels, part, start, end, may_be_trimmed=True)
    return Video(key_of(f"{clip}.mp4"), on_disk.folder / f"{clip}.mp4", labels, part)  # it will be found missing
