"""Indices for many shards at once: their videos are scanned in processes of their own, each under a deadline."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from pebble import ProcessPool
from tqdm import tqdm

from tubelet.video import Scan, Span, scan_video

from ..errors import DataError
from ..processes.parallel import cause_of, process_pool
from .index import write_index
from .samples import Sample

DEADLINE_S = 120.0


def index_shards(shards: Sequence[Path], workers: int = 0, deadline: float = DEADLINE_S) -> dict[Path, DataError]:
    """Writes the index of each shard, with `workers` processes (0: one per core). Returns what is wrong with those that
    have none now."""
    faults = {}
    total = sum(shard.stat().st_size for shard in shards if shard.is_file())
    bar = tqdm(None, "indexing", total, unit="B", unit_scale=True, disable=None)
    with process_pool(workers or os.cpu_count() or 1) as pool, bar:
        for shard in shards:
            try:
                write_index(shard, partial(_scans, pool, deadline, bar))
            except DataError as error:
                faults[shard] = error
    return faults


def _scans(
    pool: ProcessPool, deadline: float, bar: tqdm, shard: Path, samples: Sequence[Sample]
) -> Iterator[Scan | str]:
    jobs = [(Span(shard, sample.place.offset, sample.place.size), sample.key) for sample in samples]
    results = pool.map(_scan, jobs, timeout=deadline, chunksize=1).result()
    for sample in samples:
        try:
            outcome: Scan | str = next(results)
        except Exception as error:
            outcome = cause_of(error, "looked through", deadline)
        bar.update(sample.place.size)
        yield outcome


def _scan(job: tuple[Span, str]) -> Scan:
    return scan_video(job[0], name=job[1])
