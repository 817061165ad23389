"""Reading a split of a prepared dataset: its index as columns, and the bytes of any video by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from tubelet.video import VideoError

from .card import Card, read_card
from .errors import DataError
from .index import read_index


class ShardedSplit:
    """One split of a dataset, videos numbered 0 to len - 1 in the order of its shards.

    labels: (videos,) int64 class numbers, -1 without labels. Holds no open files, so it can be sent to workers.
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
        self.labels = table["label"].to_numpy().astype(np.int64)

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

    def key(self, index: int) -> str:
        return self._keys[index].as_py()

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
