"""Indices for many shards at once: their videos are scanned in processes of their own, each under a deadline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from pebble import ProcessPool
from tqdm import tqdm

from tubelet.video import Scan, Span, scan_video

from .checking import _cause, outcomes, process_pool
from .errors import DataError
from .index import write_index
from .samples import Sample

DEADLINE_S = 120.0


def index_shards(shards: Sequence[Path], workers: int = 0, deadline: float = DEADLINE_S) -> list[DataError]:
    """Writes the index of each shard, with `workers` processes (0: one per core). Returns what is wrong with those that
    have none now."""
    faults = []
    total = sum(shard.stat().st_size for shard in shards if shard.is_file())
    with process_pool(workers) as pool, tqdm(None, "indexing", total, unit="B", unit_scale=True, disable=None) as bar:
        for shard in shards:
            try:
                write_index(shard, partial(_scans, pool, deadline, bar))
            except DataError as error:
                faults.append(error)
    return faults


def _scans(
    pool: ProcessPool, deadline: float, bar: tqdm, shard: Path, samples: Sequence[Sample]
) -> Iterator[Scan | str]:
    jobs = [(Span(shard, sample.place.offset, sample.place.size), sample.key) for sample in samples]
    results = outcomes(pool, _scan, jobs, deadline)
    for sample, outcome in zip(samples, results, strict=True):
        bar.update(sample.place.size)
        yield _cause(outcome, deadline) if isinstance(outcome, Exception) else outcome


def _scan(job: tuple[Span, str]) -> Scan:
    return scan_video(job[0], name=job[1])
