"""Something-Something V2 (Goyal et al. 2017) by its JSON files: labels, train, validation and, if wanted, test.

The files are `<id>.webm`; one that was converted to another container is found too. The label file numbers the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..manifest import FilesByStem, Manifest, Video, key_of, manifest_of
from .classes import ClassList
from .files import needed_folder, read_json
from .lists import split_in_name


def read_ssv2(files: Sequence[Path], folder: Path | None, classes: ClassList | None) -> Manifest:
    if classes is None:
        raise DataError(
            f"{', '.join(map(str, files))}: the list of classes is missing, which numbers them. Give --labels "
            "something-something-v2-labels.json as well"
        )
    on_disk = FilesByStem(needed_folder(folder, files))
    videos = [_video(file, entry, on_disk) for file in files for entry in _entries(file)]
    return manifest_of(", ".join(map(str, files)), videos, classes.names)


def _entries(file: Path) -> list[Any]:
    content = read_json(file)
    if not isinstance(content, list):
        raise DataError(f"{file}: is no list of videos. Give --labels the JSON files of Something-Something V2")
    return content


def _video(file: Path, entry: Any, on_disk: FilesByStem) -> Video:
    split = split_in_name(file)
    if split is None:
        raise DataError(f"{file}: its name says no split. Name it so that it has train, validation or test in it")
    known = entry if isinstance(entry, dict) else {}
    number, template = str(known.get("id", "")), str(known.get("template", ""))
    if not number or not (template or split == "test"):
        raise DataError(f"{file}: an entry lacks its id or its template: {str(entry)[:80]}. Download the file again")
    # The template marks what stands for an object, "Holding [something]", and the list of classes does not.
    labels = (template.replace("[", "").replace("]", ""),) if template else ()
    path = on_disk.find(number) or on_disk.folder / f"{number}.webm"
    return Video(key_of(f"{number}.webm"), path, labels, split)
