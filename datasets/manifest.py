"""What is trained on, whatever it comes from, as one list of videos: a folder of classes, a flat folder, or a CSV."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .errors import DataError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Video:
    """One video file before it is in a shard.

    key: unique in its dataset and free of dots (WebDataset ends a key at the first dot of the file name);
    label: name of the class, None without labels; split: one of SPLITS, None while not yet assigned.
    """

    key: str
    path: Path
    label: str | None = None
    split: str | None = None


def _key_of(relative: Path) -> str:
    return re.sub(r"[^\w/-]", "_", relative.with_suffix("").as_posix())


def _with_unique_keys(videos: Sequence[Video]) -> list[Video]:
    """`a.mp4` beside `a.webm` would share a key: such videos take a digest of their path into it."""
    counts = Counter(video.key for video in videos)
    return [
        video
        if counts[video.key] == 1
        else replace(video, key=f"{video.key}_{hashlib.sha256(str(video.path).encode()).hexdigest()[:8]}")
        for video in videos
    ]


def _files_below(folder: Path) -> list[Path]:
    hidden = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in hidden if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def videos_in_folder(folder: Path) -> list[Video]:
    """Videos of a folder of classes (`folder/<class>/**/<file>`), or of a flat folder, which has no labels.

    A folder that holds nothing but `train` and `val` or `test`, each a folder of classes, brings its splits along.
    Every file that is not hidden counts: what is no video is found out when it is opened, and reported.
    Raises DataError when the folder is missing, empty, has one class only, or mixes both layouts.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give --videos a folder with one subfolder per class")
    files = _files_below(folder)
    if not files:
        raise DataError(f"{folder}: the folder is empty. Put one subfolder of videos per class into it")
    flat = [path for path in files if path.parent == folder]
    if len(flat) == len(files):
        return _with_unique_keys([Video(_key_of(path.relative_to(folder)), path) for path in files])
    has_splits = {"train"} < {path.relative_to(folder).parts[0] for path in files} <= set(SPLITS)
    if flat:
        raise DataError(
            f"{folder}: {len(flat)} files such as {flat[0].name} lie beside the class folders, so their class is "
            "unknown. Move them into a class folder or elsewhere"
        )
    videos = [_video_in_folder(path.relative_to(folder), path, has_splits) for path in files]
    _check_classes(str(folder), videos)
    return _with_unique_keys(videos)


def _video_in_folder(relative: Path, path: Path, has_splits: bool) -> Video:
    if not has_splits:
        return Video(_key_of(relative), path, label=relative.parts[0])
    if len(relative.parts) < 3:
        raise DataError(f"{path}: lies beside the class folders, so its class is unknown. Move it into a class folder")
    return Video(_key_of(relative), path, label=relative.parts[1], split=relative.parts[0])


def videos_in_csv(file: Path, folder: Path | None) -> list[Video]:
    """Videos of a CSV with a header: `path` and `label`, optionally `split` (train, val or test).

    Paths are relative to `folder`, else to the CSV's own folder. A path without a file stays in the list: opening
    it later puts it into the report. Raises DataError for a missing file or column, a repeated path, a split of
    another name, or a single class.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file. Give --labels a CSV with the columns path,label and optionally split")
    root = folder if folder is not None else file.parent
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Give --videos the folder that the paths of {file.name} start from")
    with file.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle, skipinitialspace=True)
        columns = set(reader.fieldnames or ())
        if not {"path", "label"} <= columns:
            found = ", ".join(reader.fieldnames or ()) or "nothing"
            raise DataError(f"{file}: the first line must name the columns path,label[,split]; it has {found}")
        videos = [_video_of_row(file, number, row, root) for number, row in enumerate(reader, start=2)]
    if not videos:
        raise DataError(f"{file}: no rows below the header. Add one line path,label per video")
    repeated = [str(path) for path, count in Counter(video.path for video in videos).items() if count > 1]
    if repeated:
        raise DataError(f"{file}: {len(repeated)} paths stand more than once, first {repeated[0]}. Keep one line each")
    _check_classes(str(file), videos)
    return _with_unique_keys(videos)


def _video_of_row(file: Path, number: int, row: dict[str, str | None], root: Path) -> Video:
    path, label, split = (row.get("path") or "").strip(), (row.get("label") or "").strip(), row.get("split")
    if not path or not label:
        raise DataError(f"{file}, line {number}: a path and a label are needed; got path '{path}', label '{label}'")
    split = split.strip() if split else None
    if split and split not in SPLITS:
        raise DataError(f"{file}, line {number}: split '{split}' is not one of {', '.join(SPLITS)}")
    # A path that leaves the folder must not become a member name that leaves it.
    relative = Path(*(part for part in Path(path).parts if part not in ("..", "/")))
    return Video(_key_of(relative), root / path, label, split or None)


def _check_classes(source: str, videos: Iterable[Video]) -> None:
    labels = {video.label for video in videos}
    if len(labels) == 1:
        raise DataError(
            f"{source}: only one class ('{next(iter(labels))}'), and there is nothing to tell apart. "
            "Add a second class, or for videos without labels give --videos the folder that holds the files themselves"
        )


def assign_splits(videos: Sequence[Video], val_fraction: float, seed: int) -> list[Video]:
    """Gives each video without a split `train` or `val`: stratified by class, a pure function of keys and seed.

    Of a class with n videos, round(n * val_fraction) go to `val`, at least one where n > 1; a class of one video
    stays in training. Where the videos come with splits of their own they are kept and those without join `train`.
    """
    if any(video.split for video in videos):
        return [video if video.split else replace(video, split="train") for video in videos]
    by_label: dict[str | None, list[str]] = defaultdict(list)
    for video in videos:
        by_label[video.label].append(video.key)
    held_out: set[str] = set()
    for label, keys in by_label.items():
        if label is None:
            continue  # without labels there is nothing to validate
        keys.sort()
        count = round(len(keys) * val_fraction)
        if val_fraction > 0 and len(keys) > 1:
            count = min(max(count, 1), len(keys) - 1)
        digest = hashlib.sha256(f"{seed}/{label}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        held_out.update(keys[i] for i in rng.permutation(len(keys))[:count])
    return [replace(video, split="val" if video.key in held_out else "train") for video in videos]
