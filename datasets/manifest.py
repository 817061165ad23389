"""What is trained on, whatever it comes from, as one list of videos with the order of their classes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .errors import DataError

SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Video:
    """One video before it is in a shard: a file, or the part of it between two times.

    key: unique in its dataset and free of dots (WebDataset ends a key at the first dot of the file name);
    labels: names of its classes, empty without labels; split: one of SPLITS, None while not yet assigned;
    start, end: seconds from the file's first frame, None where it is used from its beginning, to its end;
    may_be_trimmed: the file may hold just this part already, and is then used whole.
    """

    key: str
    path: Path
    labels: tuple[str, ...] = ()
    split: str | None = None
    start: float | None = None
    end: float | None = None
    may_be_trimmed: bool = False

    def __str__(self) -> str:
        if self.start is None and self.end is None:
            return str(self.path)
        return f"{self.path} ({self.start or 0:g} s to {'its end' if self.end is None else f'{self.end:g} s'})"


@dataclass(frozen=True)
class Manifest:
    """All that a source lists, whether or not the files are there.

    classes: names in label order; None: alphabetical, of the videos that turn out to be good.
    multilabel: a video may have any number of labels; otherwise it has one, or none where they are not known.
    """

    videos: list[Video]
    classes: list[str] | None = None
    multilabel: bool = False


def split_named(text: str) -> str | None:
    """The split that a word means: 'validation' and 'validate' are 'val'. None for other words."""
    return _SPLIT_NAMES.get(text.strip().lower())


def key_of(path: str | Path) -> str:
    """A path as a key: without suffix and dots, and never one that leaves the folder a tar is unpacked in."""
    relative = Path(*(part for part in Path(path).parts if part not in ("..", "/")))
    return re.sub(r"[^\w/-]", "_", (relative.parent / relative.stem).as_posix())


def manifest_of(
    source: str | Path, videos: Sequence[Video], classes: list[str] | None = None, multilabel: bool = False
) -> Manifest:
    """The manifest of what `source` lists, checked as a whole.

    Raises DataError where there is nothing, a video stands more than once, a label is not in `classes`, or there is
    nothing to tell apart.
    """
    if not videos:
        raise DataError(f"{source}: lists no videos. Add one line per video")
    _check_repeated(source, videos)
    labels = {label for video in videos for label in video.labels}
    if classes is not None and (unknown := sorted(labels.difference(classes))):
        raise DataError(
            f"{source}: {named(unknown, 'label')} not among the {len(classes)} classes, which begin with "
            f"'{classes[0]}'. Mend the labels, or give the list of classes that they are from"
        )
    told_apart = sorted(labels) if classes is None else classes
    if len(told_apart) == 1 and not multilabel:
        raise DataError(
            f"{source}: only one class ('{told_apart[0]}'), and there is nothing to tell apart. "
            "Add a second class, or for videos without labels give --videos the folder that holds the files themselves"
        )
    return Manifest(with_unique_keys(videos), classes, multilabel)


def named(things: Sequence[object], noun: str) -> str:
    """'3 labels are: 'a', 'b', 'c'' with at most three of the names, to begin a message with."""
    first = ", ".join(f"'{thing}'" for thing in things[:3]) + (", ..." if len(things) > 3 else "")
    return f"{len(things)} {noun}{'s' if len(things) > 1 else ''} ({first}) {'are' if len(things) > 1 else 'is'}"


def _check_repeated(source: str | Path, videos: Iterable[Video]) -> None:
    splits = defaultdict(list)
    for video in videos:
        splits[video.path, video.start, video.end].append(video)
    repeated = [same for same in splits.values() if len(same) > 1]
    torn = [same[0] for same in repeated if len({video.split for video in same}) > 1]
    if torn:
        raise DataError(f"{source}: {named(torn, 'video')} in more than one split. Keep each in one of them")
    if repeated:
        first = [same[0] for same in repeated]
        raise DataError(f"{source}: {named(first, 'video')} listed more than once. Keep one line of each")


def with_unique_keys(videos: Sequence[Video]) -> list[Video]:
    """`a.mp4` beside `a.webm` would share a key: such videos take a digest of their path into it."""
    counts = Counter(video.key for video in videos)
    return [
        video
        if counts[video.key] == 1
        else replace(video, key=f"{video.key}_{hashlib.sha256(str(video).encode()).hexdigest()[:8]}")
        for video in videos
    ]


class FilesByStem:
    """The files below a folder by their names without suffix, for annotations that know no more than that.

    Of several copies of one video, the first in the order of their paths is the one. Raises DataError when the folder
    is missing or empty.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._files = {path.stem: path for path in reversed(files_below(folder))}

    def find(self, stem: str) -> Path | None:
        return self._files.get(stem)


def files_below(folder: Path) -> list[Path]:
    """All files that are not hidden, sorted. Raises DataError when the folder is missing or empty."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give --videos the folder that the videos lie in")
    below = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not files:
        raise DataError(f"{folder}: the folder is empty. Put the videos into it, one subfolder per class")
    return files


def videos_in_folder(folder: Path) -> Manifest:
    """Videos of a folder of classes (`folder/<class>/**/<file>`), or of a flat folder, which has no labels.

    A folder that holds nothing but `train` and `val` or `test`, each a folder of classes, brings its splits along.
    Every file that is not hidden counts: what is no video is found out when it is opened, and reported.
    Raises DataError when the folder is missing, empty, has one class only, or mixes both layouts.
    """
    files = files_below(folder)
    flat = [path for path in files if path.parent == folder]
    if len(flat) == len(files):
        return manifest_of(folder, [Video(key_of(path.relative_to(folder)), path) for path in files])
    has_splits = {"train"} < {path.relative_to(folder).parts[0] for path in files} <= set(SPLITS)
    if flat:
        raise DataError(
            f"{folder}: {len(flat)} files such as {flat[0].name} lie beside the class folders, so their class is "
            "unknown. Move them into a class folder or elsewhere"
        )
    return manifest_of(folder, [video_in_folder(path.relative_to(folder), path, has_splits) for path in files])


def video_in_folder(relative: Path, path: Path, has_splits: bool) -> Video:
    """The video of a file in a folder of classes, or of splits with such."""
    if not has_splits:
        return Video(key_of(relative), path, (relative.parts[0],))
    if len(relative.parts) < 3:
        raise DataError(f"{path}: lies beside the class folders, so its class is unknown. Move it into a class folder")
    return Video(key_of(relative), path, (relative.parts[1],), split=relative.parts[0])


def assign_splits(videos: Sequence[Video], val_fraction: float, seed: int) -> list[Video]:
    """Gives each video without a split `train` or `val`: stratified by class, a pure function of keys and seed.

    Of a class with n videos, round(n * val_fraction) go to `val`, at least one where n > 1; a class of one video
    stays in training. Videos with several labels are drawn from as one class, and the parts of one file stay together,
    counted by the label of the first. Where the videos come with splits of their own they are kept and those without
    join `train`.
    """
    if any(video.split for video in videos):
        return [video if video.split else replace(video, split="train") for video in videos]
    several = any(len(video.labels) > 1 for video in videos)
    by_label: dict[str, list[str]] = defaultdict(list)
    head_of: dict[Path, Video] = {}
    for video in sorted(videos, key=lambda video: video.key):
        head_of.setdefault(video.path, video)
    for video in head_of.values():
        if video.labels:  # without labels there is nothing to validate
            by_label["" if several else video.labels[0]].append(video.key)
    held_out: set[str] = set()
    for label, keys in by_label.items():
        count = round(len(keys) * val_fraction)
        if val_fraction > 0 and len(keys) > 1:
            count = min(max(count, 1), len(keys) - 1)
        digest = hashlib.sha256(f"{seed}/{label}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        held_out.update(keys[i] for i in rng.permutation(len(keys))[:count])
    return [replace(video, split="val" if head_of[video.path].key in held_out else "train") for video in videos]
