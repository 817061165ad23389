"""Reading a split of a dataset: its index as columns that stay on the disk, and any video of it by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tubelet.video import Scan, Span, VideoError, VideoReader, open_video

from ..errors import DataError
from .card import Card
from .labels import label_array, label_lists
from .samples import checksum_before
from .sources import open_dataset

ENTRY = ("key", "offset", "size", "header", "scan")  # columns of an index that opening a video takes


def open_entry(shard: Path, entry: Mapping[str, Any], backend: str = "pyav") -> VideoReader:
    """The video of a shard that its index has an entry of, see ENTRY. Raises VideoError when the shard no longer has
    it."""
    key, span = entry["key"], Span(shard, entry["offset"], entry["size"])
    try:
        with shard.open("rb", buffering=0) as file:
            header = checksum_before(file, span.offset)
    except OSError as error:
        raise VideoError(key, f"{shard} cannot be read ({error.strerror or error})") from error
    if header != entry["header"]:
        raise VideoError(key, f"{shard} is not the tar that was indexed: `tubelet index` writes its index anew")
    return open_video(span, backend=backend, name=key, scan=scan_of(entry))


def scan_of(entry: Mapping[str, Any]) -> Scan:
    """What was found out of the packets of the video of an entry. Raises VideoError where the index is damaged."""
    try:
        return Scan.unpack(entry["scan"])
    except ValueError as error:
        raise VideoError(entry["key"], f"its index is damaged ({error}): `tubelet index` writes it anew") from error


class ShardedSplit:
    """One split of a dataset, videos numbered 0 to len - 1 in the order of its shards.

    labels: (videos,) int64 class numbers, -1 without labels; of multi-label data (videos, classes) bool, True for each
    label. All else stays in the memory-mapped indices, which the processes of a machine share. Holds no open files, so
    it can be sent to workers.
    Raises DataError for a dataset that cannot be read, lacks the split, or has a shard missing or cut short.
    """

    def __init__(self, data: str | Path, split: str, cache: Path | None = None):
        """data: what `--data` takes, see open_dataset; cache: folder for what is not on this machine."""
        self.data, self.split, self._cache = str(data), split, cache
        self._dataset = open_dataset(data, cache, unnamed=split)
        self.card: Card = self._dataset.card
        self._tables = [index.table for index in self._dataset.indices(split)]
        self._shards = self._dataset.split(split).shards
        self._starts = np.cumsum([0, *(table.num_rows for table in self._tables)])
        lists = [
            label_lists(table, self.classes, shard.file)
            for table, shard in zip(self._tables, self._shards, strict=True)
        ]
        chunks = pa.chunked_array([chunk for one in lists for chunk in one.chunks], pa.list_(pa.int32()))
        self.labels = label_array(chunks, len(self.classes) if self.card.multilabel else None)

    def __reduce__(self) -> tuple:
        return type(self), (self.data, self.split, self._cache)  # a copy maps the same indices, and carries none along

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> list[str]:
        return self.card.classes

    def require_one_label(self) -> None:
        """Raises DataError unless each video has one label."""
        where = f"{self.data}, {self.split}"
        if self.card.multilabel:
            raise DataError(
                f"{where}: its videos have several labels each. Train on them with --loss bce, or prepare them with a "
                "column `label` instead of `labels`; embedding takes them as they are"
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

    def sizes(self) -> np.ndarray:
        """(videos,) int64 bytes of each."""
        return np.concatenate([table.column("size").to_numpy() for table in self._tables]).astype(np.int64)

    def find(self, keys: Sequence[str]) -> dict[str, int]:
        """The numbers of the videos with those keys, of those that are in the split."""
        wanted = pa.array(keys, pa.string())
        found = [pc.is_in(table.column("key"), wanted).to_numpy() for table in self._tables]
        return {self.key(number): number for number in np.flatnonzero(np.concatenate(found)).tolist()}

    def span(self, index: int) -> Span:
        """Where the bytes of video `index` are; a shard that is elsewhere is fetched first. Raises DataError where it
        cannot be had."""
        path = self._dataset.path(self._shards[self._place(index)[0]])
        return Span(path, self._cell(index, "offset"), self._cell(index, "size"))

    def open(self, index: int, backend: str = "pyav") -> VideoReader:
        """Video `index`, opened for reading; its packets were looked through when it was indexed.

        Raises VideoError when the shard no longer has it.
        """
        return open_entry(self.span(index).path, {name: self._cell(index, name) for name in ENTRY}, backend)

    def scan(self, index: int) -> Scan:
        """What was found out of the packets of video `index`. Raises VideoError where the index is damaged."""
        return scan_of({name: self._cell(index, name) for name in ("key", "scan")})

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of video `index`, and its row in the index of that."""
        shard = int(np.searchsorted(self._starts, index, "right")) - 1
        return shard, int(index - self._starts[shard])

    def _cell(self, index: int, column: str) -> Any:
        shard, row = self._place(index)
        return self._tables[shard].column(column)[row].as_py()
