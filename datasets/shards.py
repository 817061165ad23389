"""Reading a split of a prepared dataset: its index as columns, and the bytes of any video by number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tubelet.video import Span, VideoError

from .card import Card, read_card
from .errors import DataError
from .index import read_index


class ShardedSplit:
    """One split of a dataset, videos numbered 0 to len - 1 in the order of its shards.

    labels: (videos,) int64 class numbers, -1 without labels; of multi-label data (videos, classes) bool, True for each
    label. Holds no open files, so it can be sent to workers.
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
        tables = [read_index(path) for path in self._shards]
        self._shard_of = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
        table = pa.concat_tables(tables)
        self._keys = table["key"]
        self._offsets = table["offset"].to_numpy()
        self._sizes = table["size"].to_numpy()
        self._frames = np.stack([table["start_frame"].to_numpy(), table["end_frame"].to_numpy()], axis=1)
        self.labels = _label_array(table["labels"], len(self.card.classes) if self.card.multilabel else None)

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
        first, after = self._frames[index].tolist()
        return first, after

    def key(self, index: int) -> str:
        return self._keys[index].as_py()

    def find(self, keys: Sequence[str]) -> dict[str, int]:
        """The numbers of the videos with those keys, of those that are in the split."""
        wanted = pc.is_in(self._keys, pa.array(keys, pa.string())).to_numpy()
        return {self.key(number): number for number in np.flatnonzero(wanted).tolist()}

    def span(self, index: int) -> Span:
        """Where the bytes of video `index` are."""
        return Span(self._shards[self._shard_of[index]], int(self._offsets[index]), int(self._sizes[index]))

    def read(self, index: int) -> bytes:
        """The bytes of video `index`. Raises VideoError when the shard no longer has them."""
        shard = self._shards[self._shard_of[index]]
        size = int(self._sizes[index])
        try:
            with shard.open("rb", buffering=0) as handle:
                handle.seek(int(self._offsets[index]))
                data = handle.read(size)
        except OSError as error:
            raise VideoError(self.key(index), f"{shard} cannot be read ({error})") from error
        if len(data) != size:
            raise VideoError(self.key(index), f"{shard} ends before the video does: the shard was cut short")
        return data


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
