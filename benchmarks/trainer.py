"""What our training loop costs beside a bare loop over the DeepSpeed engine, and over torch's DDP.

    python benchmarks/trainer.py
    torchrun --nproc-per-node 2 benchmarks/trainer.py        # and what a second process brings

All three train the same network on the same batch, which lies in memory: of ours the whole `train` function runs, with
nothing but the loader replaced. Each round runs all three; a row is the median step of each round: ms, and ours over
theirs (1.03: 3 % slower), the median of the rounds, and its quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands set it

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tubelet.datasets import DemoConfig, PrepareConfig, TrainBatch, make_demo, prepare
from tubelet.pipeline.cluster.distributed import World, join, leave
from tubelet.pipeline.config import DataConfig, ModelConfig, OptimConfig, RunConfig, SystemConfig, TrainConfig
from tubelet.pipeline.training import train as training
from tubelet.pipeline.training.engine import deepspeed_json, start_engine
from tubelet.pipeline.training.setup import build_model

STEPS, SKIPPED = 24, 4
SHAPE = {"dim": 384, "depth": 4, "heads": 6}


class InMemory(Iterator[TrainBatch]):
    """The loader's face, over one batch."""

    def __init__(self, batch: TrainBatch):
        self.batch = batch

    def __next__(self) -> TrainBatch:
        return self.batch

    def bar(self, videos: dict[str, int]) -> int:
        return 0

    def close(self) -> None:
        pass


def settings(folder: Path, out: Path, stage: int, batch: int, size: int) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig("timesformer", model_args=SHAPE, size=size, stride=1),
        data=DataConfig(str(folder), batch_size=batch, workers=0),
        optim=OptimConfig(epochs=1, clip_grad=1.0),
        system=SystemConfig(zero_stage=stage),  # type: ignore[arg-type]
        run=RunConfig(out=out, eval_every=0, log_every=10),
    )


def ours(config: TrainConfig, batch: TrainBatch) -> list[float]:
    """Seconds of each step, as the meter of the run takes them."""
    times: list[float] = []
    read = training.Meter.read

    def reading(meter, *arguments):
        times.extend(meter.times)
        return read(meter, *arguments)

    with (
        mock.patch.object(training, "train_batches", return_value=InMemory(batch)),
        mock.patch.object(training.Meter, "read", reading),
    ):
        training.train(config)
    return times[SKIPPED:]


def timed(step: Callable[[], None]) -> list[float]:
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return times[SKIPPED:]


def bare_deepspeed(config: TrainConfig, clips: Tensor, labels: Tensor, world: World) -> list[float]:
    model = build_model(config, 4).to(world.device)
    size = sum(parameter.numel() for parameter in model.parameters())
    optim, system = config.optim, config.system
    engine = start_engine(model, optim, system, deepspeed_json(optim, system, len(clips), size), world)

    def step() -> None:
        loss = F.cross_entropy(engine(clips), labels)
        engine.backward(loss)
        if system.zero_stage == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        engine.step()

    return timed(step)


def bare_ddp(config: TrainConfig, clips: Tensor, labels: Tensor, world: World) -> list[float]:
    model = build_model(config, 4).to(world.device)
    wrapped = DistributedDataParallel(model) if world.size > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(wrapped(clips), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return timed(step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--zero-stage", type=int, default=0, choices=(0, 1, 2))
    parser.add_argument("--batch", type=int, default=2, help="clips of a process")
    parser.add_argument("--size", type=int, default=112)
    arguments = parser.parse_args()
    world = join(600, always=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(world.gather(scratch)[0])
        if world.is_main:
            videos = make_demo(DemoConfig(out=folder / "videos", videos=4 * STEPS * world.size, pairs=2))
            prepare(PrepareConfig(out=folder / "shards", videos=videos, split="train", check="packets"))
        world.barrier()
        rows = measure(arguments, folder, world)
        world.barrier()
    if world.is_main:
        print_table(arguments, rows, world)


def measure(arguments: argparse.Namespace, folder: Path, world: World) -> dict[str, list[float]]:
    """Median seconds of a step of each round."""
    generator = torch.Generator().manual_seed(world.rank)
    size, batch = arguments.size, arguments.batch
    pixels = torch.randint(0, 256, (batch, 8, size, size, 3), dtype=torch.uint8, generator=generator)
    in_memory = TrainBatch(pixels, torch.arange(batch) % 4, [], [])
    clips = torch.randn(batch, 3, 8, size, size, generator=generator).to(world.device)
    labels = in_memory.labels.to(world.device)
    rows: dict[str, list[float]] = {"tubelet": [], "DeepSpeed, bare": [], "torch DDP, bare": []}
    for number in range(arguments.rounds):
        config = settings(folder / "shards", folder / f"run-{number}", arguments.zero_stage, batch, size)
        rows["tubelet"].append(statistics.median(ours(config, in_memory)))
        rows["DeepSpeed, bare"].append(statistics.median(bare_deepspeed(config, clips, labels, world)))
        rows["torch DDP, bare"].append(statistics.median(bare_ddp(config, clips, labels, world)))
    return rows


def print_table(arguments: argparse.Namespace, rows: dict[str, list[float]], world: World) -> None:
    print(f"\nZeRO {arguments.zero_stage}, {world.size} x {world.device.type}, {arguments.batch} clips each\n")
    print("| loop | ms a step | clips/s | ours over it | quartiles |\n|---|---|---|---|---|")
    mine = np.array(rows["tubelet"])
    for name, times in rows.items():
        low, middle, high = np.percentile(mine / np.array(times), (25, 50, 75))
        step = statistics.median(times)
        ratio = "| |" if name == "tubelet" else f"{middle:.3f} | {low:.3f} to {high:.3f} |"
        print(f"| {name} | {1000 * step:.0f} | {arguments.batch * world.size / step:.2f} | {ratio}")
    print(json.dumps({name: [round(1000 * t, 1) for t in times] for name, times in rows.items()}))


if __name__ == "__main__":
    main()
    if dist.is_initialized():
        leave(0)
