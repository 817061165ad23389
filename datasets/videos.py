"""Videos in order, wherever they lie: those of a prepared dataset, of a folder, of a list, or a single file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from tubelet.video import VideoReader, frames_between, open_video

from .annotations.tables import read_paths
from .errors import DataError
from .manifest import Video, files_below, key_of, video_in_folder, with_unique_keys
from .shards.card import CARD_FILE
from .shards.patterns import is_local, names_shards
from .shards.sources import open_dataset
from .shards.split import ShardedSplit

_LISTS = (".txt", ".csv", ".parquet")


class Videos(ABC):
    """Videos numbered 0 to len - 1. Holds no open files, so it can be sent to workers.

    multilabel: a video may have several labels. sizes: (videos,) int64 bytes of each, 0 where it cannot be read.
    """

    multilabel: bool
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    @abstractmethod
    def key(self, number: int) -> str:
        """Its key."""

    @abstractmethod
    def split(self, number: int) -> str | None:
        """Its split, where it has one."""

    @abstractmethod
    def labels(self, number: int) -> list[str]:
        """The names of its classes."""

    @abstractmethod
    def fetch(self, number: int) -> None:
        """Brings it to this machine. Raises DataError where it cannot be had."""

    @abstractmethod
    def open(self, number: int, decoder: str) -> tuple[VideoReader, int, int]:
        """A reader, and the frames first <= i < after of what it reads that are the video. Raises VideoError."""


class ShardVideos(Videos):
    """The videos of some splits of a dataset, one split after the other."""

    def __init__(self, splits: list[ShardedSplit]):
        self.multilabel = splits[0].card.multilabel
        self._splits = splits
        self._starts = np.cumsum([0, *map(len, splits)])
        self.sizes = np.concatenate([split.sizes() for split in splits])

    def _place(self, number: int) -> tuple[ShardedSplit, int]:
        at = int(np.searchsorted(self._starts, number, "right")) - 1
        return self._splits[at], int(number - self._starts[at])

    def key(self, number: int) -> str:
        split, index = self._place(number)
        return split.key(index)

    def split(self, number: int) -> str:
        return self._place(number)[0].split

    def labels(self, number: int) -> list[str]:
        split, index = self._place(number)
        label = split.labels[index]
        if self.multilabel:
            return [split.classes[at] for at in np.flatnonzero(label)]
        return [split.classes[label]] if label >= 0 else []

    def fetch(self, number: int) -> None:
        split, index = self._place(number)
        split.span(index)

    def open(self, number: int, decoder: str) -> tuple[VideoReader, int, int]:
        split, index = self._place(number)
        return split.open(index, decoder), *split.frame_range(index)


class FileVideos(Videos):
    """Files, or parts of files."""

    def __init__(self, videos: list[Video], multilabel: bool = False):
        self.multilabel = multilabel
        self._videos = videos
        self.sizes = np.array([_size(video.path) for video in videos], np.int64)

    def key(self, number: int) -> str:
        return self._videos[number].key

    def split(self, number: int) -> str | None:
        return self._videos[number].split

    def labels(self, number: int) -> list[str]:
        return list(self._videos[number].labels)

    def fetch(self, number: int) -> None:
        pass  # it is here

    def open(self, number: int, decoder: str) -> tuple[VideoReader, int, int]:
        video = self._videos[number]
        reader = open_video(video.path, backend=decoder)
        times = reader.times()
        first, after = frames_between(times, video.start or 0.0, np.inf if video.end is None else video.end)
        return reader, first, after


def open_videos(data: str | Path, split: str | None = None, cache: Path | None = None) -> Videos:
    """The videos that `data` names: a prepared dataset or tars, see open_dataset; a folder of videos, whose first
    subfolders are their labels if all lie in such; a list of their paths (.txt with one a line, .csv or .parquet with a
    column `path`); or one video. split: only those of that one.

    Raises DataError where there are none.
    """
    path = Path(data)
    is_file = is_local(str(data)) and path.is_file() and path.suffix != ".tar"
    if not is_file and (not is_local(str(data)) or names_shards(str(data)) or (path / CARD_FILE).is_file()):
        names = [split] if split else list(open_dataset(data, cache).card.splits)
        return ShardVideos([ShardedSplit(data, name, cache) for name in names])
    videos, multilabel = _listed(path)
    if split is not None:
        videos = [video for video in videos if video.split == split]
        if not videos:
            raise DataError(f"{data}: has no videos of a split '{split}'. Leave --split out for all of them")
    return FileVideos(with_unique_keys(videos), multilabel)


def _listed(path: Path) -> tuple[list[Video], bool]:
    if path.is_dir():
        files = files_below(path)
        if any(file.suffix == ".tar" for file in files):
            raise DataError(f"{path}: holds tars but no {CARD_FILE}: `tubelet index {path}` makes it a dataset")
        flat = any(file.parent == path for file in files)
        splits = {"train"} < {file.relative_to(path).parts[0] for file in files} <= {"train", "val", "test"}
        named = [(file.relative_to(path), file) for file in files]
        return [Video(key_of(rel), f) if flat else video_in_folder(rel, f, splits) for rel, f in named], False
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder. --data takes a prepared dataset, a folder of videos, a list "
                        "of paths (.txt, .csv, .parquet) or one video")  # fmt: skip
    if path.suffix.lower() in _LISTS:
        return read_paths(path)
    return [Video(key_of(path.name), path)], False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # opening it will say what is wrong
