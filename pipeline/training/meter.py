"""What a run measures of itself between two lines of its log."""

from __future__ import annotations

import math
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tubelet.datasets import Position, TrainBatch, TrainBatches

from ..cluster.distributed import World
from .faults import Faults
from .flops import peak_flops


@dataclass(frozen=True)
class Reading:
    """line: of the log; bad: new bad videos and the epoch from which on they are barred; losses: (position of the step,
    mean loss over all ranks) of each step since the last reading."""

    line: dict[str, Any]
    bad: dict[str, int]
    losses: list[tuple[Position, float]]


class Meter:
    """Means since the last reading. Nothing in `add` and `step` waits for the device; `read` does.

    videos: of a batch; flops: of a clip's forward and backward pass; precision: of the arithmetic.
    """

    def __init__(self, world: World, faults: Faults, videos: int, flops: float, precision: str):
        self.world = world
        self.faults = faults
        self.videos = videos
        self.flops, self.peak = flops, peak_flops(world.device, precision)
        self.new_faults: list[tuple[str, str]] = []
        self.last = time.perf_counter()
        self.slow: Counter[str] = Counter()  # clips of this process that were decoded in a slower way, by reason
        self.waited_in_all = self.elapsed_in_all = self.computed_in_all = 0.0
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.steps_in_all = 0
        self._clear()

    def _clear(self) -> None:
        self.hits = torch.zeros(1, dtype=torch.float64, device=self.world.device)
        self.batch_losses: list[torch.Tensor] = []
        self.losses: list[torch.Tensor] = []  # of each step, summed over its clips
        self.positions: list[Position] = []
        self.times: list[float] = []
        self.clips = self.batches = 0
        self.new_faults = []
        self.restart()

    def waiting_for(self, batches: TrainBatches) -> TrainBatch:
        """The next batch; the time it is waited for counts as data wait."""
        began = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - began
        return batch

    def add(self, loss: torch.Tensor, hits: torch.Tensor, batch: TrainBatch, clips: int) -> None:
        """A micro-batch: its mean loss and how many of its clips have the right label first."""
        self.hits += hits
        self.batch_losses.append(loss * clips)
        self.clips += clips
        self.new_faults += batch.faults
        self.slow.update(batch.slow)
        self.batches += 1

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around what a rank computes by itself: the forward pass."""
        if self.world.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self.events.append((begin, end))
        else:
            began = time.perf_counter()
            yield
            self.computed_in_all += time.perf_counter() - began

    def step(self, position: Position, norm: torch.Tensor | float | None) -> None:
        """An optimiser step, whose samples began at `position`. Where its gradient is no number, its loss is none."""
        loss = torch.stack(self.batch_losses).sum()
        if norm is not None:
            loss = torch.where(torch.as_tensor(norm, device=loss.device).isfinite(), loss, math.nan)
        self.losses.append(loss)
        self.batch_losses = []
        self.positions.append(position)
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now

    def restart(self) -> None:
        """Leaves out the time since the last reading, which was not spent on training."""
        self.started = self.last = time.perf_counter()
        self.waited = 0.0

    def read(self, rate: float, norm: torch.Tensor | float | None, epoch: int) -> Reading:
        """What there is since the last reading, over all ranks. Every rank calls it, at the latest at the end of each
        epoch. Raises RunError where too many videos are bad."""
        counts = torch.tensor([self.clips, len(self.new_faults)], device=self.world.device)
        sums = torch.cat([torch.stack(self.losses).double(), self.hits, counts])
        if self.world.size > 1:
            torch.distributed.all_reduce(sums)
        *losses, hits, clips, faults = sums.tolist()
        self.computed_in_all += sum(begin.elapsed_time(end) for begin, end in self.events) / 1000
        self.events = []
        everywhere = self.world.gather(self.new_faults) if faults else []
        new = [fault for some in everywhere for fault in some]
        bad = self.faults.take(new, epoch, self.batches * self.videos * self.world.size)
        elapsed = time.perf_counter() - self.started
        self.waited_in_all += self.waited
        self.elapsed_in_all += elapsed
        self.steps_in_all += len(self.times)
        finite = [loss for loss in losses if math.isfinite(loss)]
        middle, late = np.percentile(self.times, (50, 95))
        rate_of_clips = clips / elapsed
        line = {
            "loss": sum(finite) / (clips * len(finite) / len(losses)) if finite else math.nan,
            "top1": hits / clips,
            "lr": rate,
            "grad_norm": None if norm is None else float(norm),
            "clips_per_s": rate_of_clips,
            "step_ms": 1000 * elapsed / len(self.times),
            "step_ms_p50": 1000 * float(middle),
            "step_ms_p95": 1000 * float(late),
            "step_ms_max": 1000 * max(self.times),
            "data_wait": self.waited / elapsed,
            "memory_gib": self._memory(),
            "mfu": None if self.peak is None else rate_of_clips * self.flops / (self.peak * self.world.size),
            "faults": dict(self.faults.by_cause),
            "slow_decodes": dict(self.slow),
        }
        a_step = clips / len(losses)
        read = Reading(line, bad, [(at, loss / a_step) for at, loss in zip(self.positions, losses, strict=True)])
        self._clear()
        return read

    def _memory(self) -> float:
        """Peak GiB: of the device since the last reading, or of this process on a CPU."""
        if self.world.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.world.device)
            torch.cuda.reset_peak_memory_stats(self.world.device)
            return peak / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
