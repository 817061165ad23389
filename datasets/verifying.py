"""`tubelet check`: whether a dataset is what its card and indices say, and whether its videos decode.

Shards first, each in a process of its own: size and checksum, the index, and that it fits the tar member by member.
Then videos, each in a process of its own under a deadline, opened and decoded the way that training does it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro
from pydantic import Field
from tqdm import tqdm

from tubelet.video import Scan

from .cache import hash_of
from .card import Shard
from .checking import cause_of
from .errors import DataError
from .index import Index, index_path, read_index
from .labels import label_lists
from .parallel import Task, process_pool, results
from .patterns import is_local
from .samples import LeftOut, read_samples
from .scanning import DEADLINE_S
from .shards import ENTRY, open_entry
from .sources import Dataset, open_dataset

Decode = Literal["places", "full", "none"]
_AT_ONE_PLACE = 4  # frames
_LOOKED_AT = 32  # pixels, side of the square that a frame is scaled to: as little as keeps the way of a clip


@dataclass(frozen=True)
class CheckConfig:
    data: tyro.conf.Positional[str]
    """A dataset as --data of the other commands takes it: a folder, tars by name, a URL of either."""
    decode: Decode = "places"
    """How much of each video is decoded: a few frames at its start, middle and end, all (full), or none. Videos of a
    shard whose checksum is wrong are decoded in full, unless none is."""
    report: Path | None = None
    """File for all of it as JSON."""
    quarantine: Path | None = None
    """File for the list of videos that cannot be read, as --quarantine of training takes it."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that check (0: one per core)."""
    deadline: Annotated[float, Field(gt=0)] = DEADLINE_S
    """Seconds a video may take; then it counts as one that cannot be read."""
    cache: Path | None = None
    """Folder for shards that are not on this machine (default: $TUBELET_HOME/shards or ~/.cache/tubelet/shards)."""


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


@dataclass
class Counts:
    """Of a split. videos: in its shards; decoded: of which frames came; unreadable: of which not; left_out: samples
    of the tars that their indices leave out."""

    shards: int = 0
    videos: int = 0
    decoded: int = 0
    unreadable: int = 0
    left_out: int = 0


@dataclass
class Findings:
    """slower: videos that are decoded in a slower way than they could be, by reason; left_out: of each shard, samples
    that its index leaves out, which nothing trips over."""

    data: str
    decode: Decode
    splits: dict[str, Counts]
    faults: list[Fault] = field(default_factory=list)
    slower: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, list[LeftOut]] = field(default_factory=dict)

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """(key, cause) of each video that training could not read."""
        return [(fault.key, fault.cause) for fault in self.faults if fault.what == "video" and fault.key is not None]

    def as_json(self) -> dict[str, Any]:
        return {"good": not self.faults, **asdict(self)}

    def lines(self) -> Iterator[str]:
        """In words, without the faults."""
        for name, counts in self.splits.items():
            line = f"{name}: {counts.videos} videos in {counts.shards} shards"
            if self.decode != "none":
                line += f", {counts.decoded} decoded, {counts.unreadable} cannot be read"
                if passed_over := counts.videos - counts.decoded - counts.unreadable:
                    line += f", {passed_over} not tried for want of a shard or its index"
            yield line + (f"; {counts.left_out} samples are left out by the indices" if counts.left_out else "")
        for reason, count in self.slower.most_common():
            yield f"{count} videos take a slower way: {reason}"


@dataclass(frozen=True)
class _Listed:
    """A shard as it is listed. told: where its size and checksum are told."""

    split: str
    shard: Shard
    path: Path
    classes: list[str]
    told: str


@dataclass
class _Looked:
    """What a shard is found to be. whole: its checksum is right; keys: of its videos, None where they cannot be found
    because its index is none."""

    faults: list[Fault] = field(default_factory=list)
    whole: bool = True
    keys: pa.ChunkedArray | None = None
    slower: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)


def check_data(config: CheckConfig) -> Findings:
    """Checks a dataset as `config` says. Raises DataError for one that cannot be found or whose card cannot be read."""
    if config.quarantine is not None and config.decode == "none":
        raise DataError("--quarantine lists the videos that do not decode: with --decode none there are none to list")
    dataset = open_dataset(config.data, config.cache)
    shards = list(_listed(dataset))
    findings = Findings(config.data, config.decode, {name: Counts() for name in dataset.card.splits})
    workers = config.workers or os.cpu_count() or 1
    looked = _check_shards(shards, workers)
    for listed, found in zip(shards, looked, strict=True):
        counts = findings.splits[listed.split]
        counts.shards += 1
        counts.videos += listed.shard.videos
        counts.left_out += len(found.left_out)
        findings.faults += found.faults
        findings.slower += found.slower
        if found.left_out:
            findings.left_out[listed.shard.file] = found.left_out
    findings.faults += _doubles(shards, looked)
    if config.decode != "none":
        _check_videos(shards, looked, config, workers, findings)
    return findings


def _listed(dataset: Dataset) -> Iterator[_Listed]:
    card = dataset.card
    told = "the card" if dataset.versioned else "its index"
    for name, split in card.splits.items():
        elsewhere = not all(is_local(dataset.base + shard.file) for shard in split.shards)
        if elsewhere:
            dataset.indices(name)  # brings them here
        for shard in tqdm(split.shards, f"fetching {name}", leave=False, disable=None if elsewhere else True):
            yield _Listed(name, shard, dataset.path(shard), card.classes, told)


def _check_shards(shards: Sequence[_Listed], workers: int) -> list[_Looked]:
    def failed(listed: _Listed, error: Exception) -> _Looked:
        return _Looked([_fault("shard", listed, f"cannot be looked through ({error})")])

    looked = dict.fromkeys(range(len(shards)), _Looked())
    task = Task("shards", _check_shard, failed)
    bar = tqdm(None, "shards", sum(listed.shard.bytes for listed in shards), unit="B", unit_scale=True, disable=None)
    with process_pool(workers) as pool, bar:
        for number, found in results(pool, 2 * workers, task, shards, range(len(shards))):
            looked[number] = found
            bar.update(shards[number].shard.bytes)
    return list(looked.values())


def _fault(what: Literal["shard", "index", "video"], listed: _Listed, cause: str, key: str | None = None) -> Fault:
    return Fault(what, listed.split, listed.shard.file, key, cause)


def _check_shard(listed: _Listed) -> _Looked:
    looked = _Looked()
    if (cause := _not_as_told(listed)) is not None:
        looked.whole = False
        looked.faults.append(_fault("shard", listed, cause))
    try:
        index = read_index(listed.path)
        index.table.validate(full=True)
        if index.sha256 != listed.shard.sha256:
            raise DataError(f"{index_path(listed.path).name} is the index of another tar than {listed.told} tells of")
    except (DataError, pa.ArrowException) as error:
        looked.faults.append(_fault("index", listed, str(error)))
        return looked
    looked.keys, looked.left_out = index.table["key"], index.left_out
    try:
        label_lists(index.table, listed.classes, index_path(listed.path).name)
    except DataError as error:
        looked.faults.append(_fault("index", listed, str(error)))
    if index.table.num_rows != listed.shard.videos:
        cause = f"it has {index.table.num_rows} videos where the card says {listed.shard.videos}"
        looked.faults.append(_fault("index", listed, cause))
    looked.faults += _misfits(listed, index)
    for key, packed in zip(index.table["key"].to_pylist(), index.table["scan"], strict=True):
        try:
            scan = Scan.unpack(packed.as_py())
        except ValueError as error:
            looked.faults.append(_fault("index", listed, f"what it says of its packets is damaged ({error})", key))
            continue
        if reason := scan.distrust or scan.detour:
            looked.slower[reason] += 1
    return looked


def _not_as_told(listed: _Listed) -> str | None:
    if not listed.path.is_file():
        return "the shard is missing"
    if (size := listed.path.stat().st_size) != listed.shard.bytes:
        return f"it has {size:,} bytes where {listed.told} says {listed.shard.bytes:,}: it was cut short or changed"
    try:
        digest = hash_of(listed.path)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    if digest != listed.shard.sha256:
        told = listed.shard.sha256
        return f"its sha256 is {digest[:12]}... where {listed.told} says {told[:12]}...: it was damaged or changed"
    return None


def _misfits(listed: _Listed, index: Index) -> list[Fault]:
    """Where the index and the members of the tar do not tell the same."""
    if not listed.path.is_file():
        return []
    try:
        samples, _ = read_samples(listed.path)
    except DataError as error:
        return [_fault("shard", listed, str(error))]
    there = {sample.key: (sample.suffix, *sample.place) for sample in samples}
    columns = ("suffix", "offset", "size", "header")
    rows = zip(*(index.table[name].to_pylist() for name in columns), strict=True)
    told = dict(zip(index.table["key"].to_pylist(), rows, strict=True))
    left_out = {key for key, _ in index.left_out}
    faults = []
    for key, place in told.items():
        if key not in there:
            faults.append(_fault("index", listed, "the index has a video that the tar has not", key))
        elif there[key] != place:
            faults.append(_fault("index", listed, f"the tar has it at {there[key]}, the index at {place}", key))
    for key in sorted(there.keys() - told.keys() - left_out):
        faults.append(_fault("index", listed, "the tar has a video that the index has not", key))
    return faults


def _doubles(shards: Sequence[_Listed], looked: Sequence[_Looked]) -> Iterator[Fault]:
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
                yield _fault("index", listed, f"its key stands in {first[key]} too", key)
            first.setdefault(key, listed.shard.file)


class _Videos(Sequence["tuple[Path, int, bool]"]):
    """The videos whose shard and index are there, as `_decode` takes them; a list of many millions would be large."""

    def __init__(self, shards: Sequence[_Listed], looked: Sequence[_Looked], full: bool):
        self._shards = [
            (listed, found.keys, full or not found.whole)
            for listed, found in zip(shards, looked, strict=True)
            if found.keys is not None and listed.path.is_file()
        ]
        self._starts = np.cumsum([0, *(len(keys) for _, keys, _ in self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> tuple[Path, int, bool]:  # type: ignore[override]  # no slices
        shard, row = self._place(number)
        listed, _, full = self._shards[shard]
        return listed.path, row, full

    def named(self, number: int) -> tuple[_Listed, str]:
        """The shard and the key of a video."""
        shard, row = self._place(number)
        listed, keys, _ = self._shards[shard]
        return listed, keys[row].as_py()

    def _place(self, number: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._starts, number, "right")) - 1
        return shard, number - int(self._starts[shard])


def _check_videos(
    shards: Sequence[_Listed], looked: Sequence[_Looked], config: CheckConfig, workers: int, findings: Findings
) -> None:
    videos = _Videos(shards, looked, config.decode == "full")
    faults: dict[int, Fault] = {}
    task = Task("videos", _decode, failed=lambda video, error: error, deadline=lambda video: config.deadline)
    bar = tqdm(None, "videos", len(videos), unit=" videos", disable=None)
    with process_pool(workers) as pool, bar:
        for number, outcome in results(pool, 2 * workers, task, videos, range(len(videos))):
            bar.update()
            listed, key = videos.named(number)
            counts = findings.splits[listed.split]
            if isinstance(outcome, Exception):
                counts.unreadable += 1
                faults[number] = _fault("video", listed, cause_of(outcome, "decoded", config.deadline), key)
                continue
            counts.decoded += 1
            if outcome is not None:
                findings.slower[outcome] += 1
    findings.faults += [faults[number] for number in sorted(faults)]


def _decode(video: tuple[Path, int, bool]) -> str | None:
    """Decodes frames of a video as training does. Returns why it went a slower way where its index knew of none;
    raises VideoError where frames do not come."""
    shard, row, full = video
    table = _table(shard)
    first, after = (table[name][row].as_py() for name in ("start_frame", "end_frame"))
    with open_entry(shard, {name: table[name][row].as_py() for name in ENTRY}) as reader:
        known = reader.fallback
        whole_frame = (0, 0, reader.info.height, reader.info.width)
        reader.crops(np.arange(first, after) if full else places(first, after), [whole_frame], _LOOKED_AT)
        return None if reader.fallback == known else reader.fallback


def places(first: int, after: int) -> np.ndarray:
    """Frames at the start, the middle and the end of first <= i < after, each once, in ascending order."""
    run = np.arange(_AT_ONE_PLACE)
    middle = (first + after - _AT_ONE_PLACE) // 2
    return np.unique(np.clip(np.concatenate([first + run, middle + run, after - 1 - run]), first, after - 1))


@lru_cache(maxsize=4)
def _table(shard: Path) -> pa.Table:
    return read_index(shard).table
