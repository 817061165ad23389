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
import tyro
from pydantic import Field
from tqdm import tqdm

from ..errors import DataError
from ..processes.parallel import Task, cause_of, process_pool, results
from .index import read_index
from .patterns import is_local
from .samples import LeftOut
from .scanning import DEADLINE_S
from .sources import Dataset, open_dataset
from .split import ENTRY, open_entry
from .verifying_shards import Fault, Listed, Looked, check_shard, doubles, fault_of

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
    """slower: videos that are decoded in a slower way than they could be, by reason; one may have two, for what its
    packets are like and for what decoding meets. left_out: of each shard, samples that its index leaves out, which
    nothing trips over."""

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
        return {
            "data": self.data,
            "decode": self.decode,
            "good": not self.faults,
            "splits": {name: asdict(counts) for name, counts in self.splits.items()},
            "slower": dict(self.slower),
            "left_out": {shard: [each._asdict() for each in some] for shard, some in self.left_out.items()},
            "faults": [asdict(fault) for fault in self.faults],
        }

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
    findings.faults += doubles(shards, looked)
    if config.decode != "none":
        _check_videos(shards, looked, config, workers, findings)
    return findings


def _listed(dataset: Dataset) -> Iterator[Listed]:
    card = dataset.card
    told = "the card" if dataset.versioned else "its index"
    for name, split in card.splits.items():
        elsewhere = not all(is_local(dataset.base + shard.file) for shard in split.shards)
        if elsewhere:
            dataset.indices(name)  # brings them here
        for shard in tqdm(split.shards, f"fetching {name}", leave=False, disable=None if elsewhere else True):
            yield Listed(name, shard, dataset.path(shard), card.classes, told)


def _check_shards(shards: Sequence[Listed], workers: int) -> list[Looked]:
    def failed(listed: Listed, error: Exception) -> Looked:
        return Looked([fault_of("shard", listed, f"cannot be looked through ({error})")])

    looked: dict[int, Looked] = {}
    task = Task("shards", check_shard, failed)
    bar = tqdm(None, "shards", sum(listed.shard.bytes for listed in shards), unit="B", unit_scale=True, disable=None)
    with process_pool(workers) as pool, bar:
        for number, found in results(pool, 2 * workers, task, shards, range(len(shards))):
            looked[number] = found
            bar.update(shards[number].shard.bytes)
    return [looked[number] for number in range(len(shards))]


class _Videos(Sequence["tuple[Path, int, bool]"]):
    """The videos whose shard and index are there, as `_decode` takes them; a list of many millions would be large."""

    def __init__(self, shards: Sequence[Listed], looked: Sequence[Looked], full: bool):
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

    def named(self, number: int) -> tuple[Listed, str]:
        """The shard and the key of a video."""
        shard, row = self._place(number)
        listed, keys, _ = self._shards[shard]
        return listed, keys[row].as_py()

    def _place(self, number: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._starts, number, "right")) - 1
        return shard, number - int(self._starts[shard])


def _check_videos(
    shards: Sequence[Listed], looked: Sequence[Looked], config: CheckConfig, workers: int, findings: Findings
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
                faults[number] = fault_of("video", listed, cause_of(outcome, "decoded", config.deadline), key)
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
