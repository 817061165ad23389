"""Reading a split of a dataset: its index as columns that stay on the disk, and any video of it by number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tubelet.video import Scan, Span, VideoError, VideoReader, open_video

from .card import Card, read_card
from .errors import DataError
from .index import read_index
from .samples import checksum_before


class ShardedSplit:
    """One split of a dataset, videos numbered 0 to len - 1 in the order of its shards.

    labels: (videos,) int64 class numbers, -1 without labels; of multi-label data (videos, classes) bool, True for each
    label. All else stays in the memory-mapped indices, which the processes of a machine share. Holds no open files, so
    it can be sent to workers.
    Raises DataError for a dataset that cannot be read, lacks the split, or has a shard missing or cut short.
    """

    def __init__(self, folder: str | Path, split: str):
        self.folder = Path(folder)
        self.split = split
        self.card: Card = read_card(self.folder)
        if split not in self.card.splits:
            has = ", ".join(self.card.splits) or "none"
            raise DataError(f"{folder}: has no split '{split}'; it has {has}")
        self._shards = [self._checked(shard.file, shard.bytes) for shard in self.card.splits[split].shards]
        self._tables = [read_index(path).table for path in self._shards]
        self._starts = np.cumsum([0, *(table.num_rows for table in self._tables)])
        labels = pa.chunked_array([chunk for table in self._tables for chunk in table["labels"].chunks])
        self.labels = _label_array(labels, len(self.card.classes) if self.card.multilabel else None)

    def __reduce__(self) -> tuple:
        return type(self), (self.folder, self.split)  # a copy maps the same indices, and does not carry them along

    def _checked(self, file: str, size: int) -> Path:
        path = self.folder / file
        if not path.is_file():
            raise DataError(f"{path}: the shard is missing. Copy the dataset again, or prepare it again")
        if path.stat().st_size != size:
            raise DataError(
                f"{path}: the shard has {path.stat().st_size} bytes where the card says {size}: it was cut short or "
                "changed. Copy it again, or prepare the dataset again"
            )
        return path

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> list[str]:
        return self.card.classes

    def require_one_label(self) -> None:
        """Raises DataError unless each video has one label, which is what training and scores are made for."""
        where = f"{self.folder}, {self.split}"
        if self.card.multilabel:
            raise DataError(
                f"{where}: its videos have several labels each, and a model is trained and scored on one label per "
                "video. Prepare it with a column `label` instead of `labels`; embedding takes it as it is"
            )
        if unlabelled := int((self.labels < 0).sum()):
            raise DataError(
                f"{where}: {unlabelled} of {len(self)} videos have no labels to train on or to score against. "
                "Prepare it with labels; embedding takes it as it is"
            )

    def frame_range(self, index: int) -> tuple[int, int]:
        """The frames first <= i < after of the bytes of video `index` that are the video."""
        return self._cell(index, "start_frame"), self._cell(index, "end_frame")

    def key(self, index: int) -> str:
        return self._cell(index, "key")

    def span(self, index: int) -> Span:
        """Where the bytes of video `index` are."""
        return Span(self._shards[self._place(index)[0]], self._cell(index, "offset"), self._cell(index, "size"))

    def open(self, index: int, backend: str = "pyav") -> VideoReader:
        """Video `index`, opened for reading; its packets were looked through when it was indexed.

        Raises VideoError when the shard no longer has it.
        """
        key, span = self.key(index), self.span(index)
        if checksum_before(span, key) != self._cell(index, "header"):
            raise VideoError(key, f"{span.path} is not the tar that was indexed: `tubelet index` writes its index anew")
        try:
            scan = Scan.unpack(self._cell(index, "scan"))
        except ValueError as error:
            raise VideoError(key, f"its index is damaged ({error}): `tubelet index` writes it anew") from error
        return open_video(span, backend=backend, name=key, scan=scan)

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of video `index`, and its row in the index of that."""
        shard = int(np.searchsorted(self._starts, index, "right")) - 1
        return shard, int(index - self._starts[shard])

    def _cell(self, index: int, column: str) -> Any:
        shard, row = self._place(index)
        return self._tables[shard].column(column)[row].as_py()


def _label_array(lists: pa.ChunkedArray, classes: int | None) -> np.ndarray:
    """Class numbers as lists -> (videos,) int64 of at most one each, or with `classes` (videos, classes) bool."""
    counts = pc.list_value_length(lists).to_numpy()
    videos, numbers = np.repeat(np.arange(len(counts)), counts), pc.list_flatten(lists).to_numpy()
    if classes is None:
        labels = np.full(len(counts), -1, np.int64)
        labels[videos] = numbers
        return labels
    hot = np.zeros((len(counts), classes), bool)
    hot[videos, numbers] = True
    return hot
