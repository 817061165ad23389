"""Whether a shard is the one that its card tells of, and whether its index fits it, member by member."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from tubelet.video import Scan

from ..errors import DataError
from .cache import checksum
from .card import Shard
from .index import Index, index_path, read_index
from .labels import label_lists
from .samples import LeftOut, read_samples


@dataclass(frozen=True)
class Fault:
    """What is wrong with a shard, its index, an entry in that (key), or a video: one that training could not read."""

    what: Literal["shard", "index", "video"]
    split: str
    shard: str
    key: str | None
    cause: str

    def __str__(self) -> str:
        return f"{self.split}, {self.shard}{f', {self.key}' if self.key else ''}: {self.cause}"


@dataclass(frozen=True)
class Listed:
    """A shard as it is listed. told: where its size and checksum are told."""

    split: str
    shard: Shard
    path: Path
    classes: list[str]
    told: str


@dataclass
class Looked:
    """What a shard is found to be. whole: its checksum is right; keys: of its videos, None where they cannot be found
    because its index is none."""

    faults: list[Fault] = field(default_factory=list)
    whole: bool = True
    keys: pa.ChunkedArray | None = None
    slower: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)


def fault_of(what: Literal["shard", "index", "video"], listed: Listed, cause: str, key: str | None = None) -> Fault:
    return Fault(what, listed.split, listed.shard.file, key, cause)


def check_shard(listed: Listed) -> Looked:
    looked = Looked()
    if (cause := _not_as_told(listed)) is not None:
        looked.whole = False
        looked.faults.append(fault_of("shard", listed, cause))
    try:
        index = read_index(listed.path)
        index.table.validate(full=True)
        if index.sha256 != listed.shard.sha256:
            raise DataError(f"{index_path(listed.path).name} is the index of another tar than {listed.told} tells of")
    except (DataError, pa.ArrowException) as error:
        looked.faults.append(fault_of("index", listed, str(error)))
        return looked
    looked.keys, looked.left_out = index.table["key"], index.left_out
    try:
        label_lists(index.table, listed.classes, index_path(listed.path).name)
    except DataError as error:
        looked.faults.append(fault_of("index", listed, str(error)))
    if index.table.num_rows != listed.shard.videos:
        cause = f"it has {index.table.num_rows} videos where the card says {listed.shard.videos}"
        looked.faults.append(fault_of("index", listed, cause))
    looked.faults += _misfits(listed, index)
    for key, packed in zip(index.table["key"].to_pylist(), index.table["scan"], strict=True):
        try:
            scan = Scan.unpack(packed.as_py())
        except ValueError as error:
            looked.faults.append(fault_of("index", listed, f"what it says of its packets is damaged ({error})", key))
            continue
        if reason := scan.distrust or scan.detour:
            looked.slower[reason] += 1
    return looked


def _not_as_told(listed: Listed) -> str | None:
    if not listed.path.is_file():
        return "the shard is missing"
    if (size := listed.path.stat().st_size) != listed.shard.bytes:
        return f"it has {size:,} bytes where {listed.told} says {listed.shard.bytes:,}: it was cut short or changed"
    try:
        digest = checksum(listed.path)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    if digest != listed.shard.sha256:
        told = listed.shard.sha256
        return f"its sha256 is {digest[:12]}... where {listed.told} says {told[:12]}...: it was damaged or changed"
    return None


def _misfits(listed: Listed, index: Index) -> list[Fault]:
    """Where the index and the members of the tar do not tell the same."""
    if not listed.path.is_file():
        return []
    try:
        samples, _ = read_samples(listed.path)
    except DataError as error:
        return [fault_of("shard", listed, str(error).removeprefix(f"{listed.path}: "))]
    there = {sample.key: (sample.suffix, *sample.place) for sample in samples}
    columns = ("suffix", "offset", "size", "header")
    rows = zip(*(index.table[name].to_pylist() for name in columns), strict=True)
    told = dict(zip(index.table["key"].to_pylist(), rows, strict=True))
    left_out = {key for key, _ in index.left_out}
    faults = []
    for key, place in told.items():
        if key not in there:
            faults.append(fault_of("index", listed, "the index has a video that the tar has not", key))
        elif there[key] != place:
            faults.append(fault_of("index", listed, f"the tar has it at {there[key]}, the index at {place}", key))
    for key in sorted(there.keys() - told.keys() - left_out):
        faults.append(fault_of("index", listed, "the tar has a video that the index has not", key))
    return faults


def doubles(shards: Sequence[Listed], looked: Sequence[Looked]) -> Iterator[Fault]:
    """Keys that stand in the dataset more than once."""
    keys = [pa.chunked_array([], pa.string()) if found.keys is None else found.keys for found in looked]
    every = pa.chunked_array([chunk for some in keys for chunk in some.chunks], pa.string())
    counted = pc.value_counts(every)
    twice = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    if not len(twice):
        return
    first: dict[str, str] = {}
    for listed, some in zip(shards, keys, strict=True):
        for key in some.filter(pc.is_in(some, twice)).to_pylist():
            if key in first:
                yield fault_of("index", listed, f"its key stands in {first[key]} too", key)
            first.setdefault(key, listed.shard.file)
