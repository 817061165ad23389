"""The loader around the decoder: what it costs besides decoding, whether workers keep their size, how long orders take.

    python benchmarks/loader.py overhead --data shards           # a dataset that `tubelet prepare` made, a minute
    python benchmarks/loader.py memory --data shards --clips 10000
    python benchmarks/loader.py order --videos 10000000

`overhead`: seconds of CPU of all processes (main, watcher, workers) for batches of 16 x 224 clips, over those for the
same clips made one after the other in one process; median and quartiles of alternating rounds. `memory`: resident
size of a worker as it makes clips, a fifth of them of damaged videos. `order`: seconds and memory to plan an epoch, and
to stand at any place of it.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import torch

from tubelet.datasets import Balance, ClipSettings, Position, ShardedSplit, TrainBatches, TrainOrder, train_batches

SETTINGS = ClipSettings(frames=16, stride=4, size=224)


def of_processes() -> list[psutil.Process]:
    """This process, its watcher and its workers, without the server that they are forked from."""
    me = psutil.Process()
    return [me, *(p for server in me.children() for p in server.children(recursive=True))]


def cpu_seconds() -> float:
    return sum(sum(p.cpu_times()[:2]) for p in of_processes())


def when_idle() -> float:
    """Waits until the workers have filled all there is room for; seconds of CPU until then."""
    last = cpu_seconds()
    while True:
        time.sleep(0.3)
        now = cpu_seconds()
        if now - last < 0.02:
            return now
        last = now


def overhead(data: Path, workers: int, batches: int, rounds: int) -> None:
    torch.set_num_threads(1)
    split = ShardedSplit(data, "train")
    order = TrainOrder.fitting(len(split), 0, 8, 1, 1)
    loader = train_batches(split, SETTINGS, order, Position(0, 0), 0, workers)
    next(loader)
    before = when_idle()
    position = Position(0, 0)
    for _ in range(len(loader._made._slots)):  # as many are made: to compare the same
        position = order.after(position)
    bare = train_batches(split, SETTINGS, order, position, 0, workers=0)
    ratios, each = [], []
    for _ in range(rounds):
        for _ in islice(loader, batches):
            pass
        after = when_idle()
        began = time.process_time()
        for _ in islice(bare, batches):
            pass
        alone = time.process_time() - began
        ratios.append((after - before) / alone - 1)
        each.append(1000 * alone / batches / order.batch)
        before = when_idle()
    loader.close()
    low, middle, high = statistics.quantiles(ratios, n=4)
    spread = f"{middle:+.1%} ({low:+.1%} to {high:+.1%})"
    print(f"{statistics.median(each):.1f} ms of CPU a clip, bare; the loader takes {spread}")


def memory(data: Path, clips: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "data"
        shutil.copytree(data, copy)
        split = ShardedSplit(copy, "train")
        for video in range(0, len(split), 5):
            span = split.span(video)
            with span.path.open("r+b") as handle:  # from the middle on, so that many open and fail while they decode
                handle.seek(span.offset + span.size // 2)
                handle.write(bytes(span.size // 20))
        order = TrainOrder.fitting(len(split), 0, 8, 1, 1)
        loader = train_batches(split, ClipSettings(16, 2, 112), order, Position(0, 0), 0, workers=2)
        report(loader, clips, order.batch)
        loader.close()


def report(loader: TrainBatches, clips: int, batch: int) -> None:
    faults = 0
    for number, one in enumerate(islice(loader, clips // batch + 1)):
        faults += len(one.faults)
        if number % (clips // batch // 10) == 0:
            sizes = [p.memory_info().rss - p.memory_info().shared for p in of_processes()]
            text = ", ".join(f"{size / 2**20:.0f}" for size in sizes[1:])
            print(
                f"{number * batch:6d} clips, {faults:5d} faults; watcher, workers: {text} MiB of their own", flush=True
            )


def order(videos: int) -> None:
    labels = (np.random.default_rng(0).pareto(1.0, videos) * 3).astype(np.int64).clip(0, 999)
    for power in (0.0, 0.5, 1.0):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        balance = Balance(labels, power) if power else None
        planned = time.perf_counter()
        next(TrainOrder(videos, 0, 8, 8, 1, balance).draws(Position(3, videos // 2), 5))
        resumed = time.perf_counter()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            f"{videos:,} videos, balance {power:g}: {planned - began:.2f} s to sort into classes, "
            f"{resumed - planned:.2f} s to stand in the middle of an epoch, at most {grown:.0f} MiB more"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("overhead", "memory", "order"))
    parser.add_argument("--data", type=Path, help="folder that `tubelet prepare` made")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=20, help="of 8 clips, a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--videos", type=int, default=10_000_000)
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds: quartiles need 2 or more")
    if args.part == "order":
        order(args.videos)
    elif args.data is None:
        parser.error(f"{args.part} needs --data")
    elif args.part == "overhead":
        overhead(args.data, args.workers, args.batches, args.rounds)
    else:
        memory(args.data, args.clips)


if __name__ == "__main__":
    main()
