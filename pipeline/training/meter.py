"""What a run measures of itself between two lines of its log."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch

from tubelet.datasets import TrainBatch, TrainBatches

from ..cluster.distributed import World
from .faults import Faults


class Meter:
    """Means since the last reading. Nothing in `add` waits for the device; `read` does."""

    def __init__(self, world: World, faults: Faults, videos: int):
        self.world = world
        self.faults = faults
        self.videos = videos  # of a batch
        self.new_faults: list[tuple[str, str]] = []
        self.slow: Counter[str] = Counter()  # clips of this process that were decoded in a slower way, by reason
        self.sums = torch.zeros(2, dtype=torch.float64, device=world.device)  # loss * clips, hits
        self.clips = 0
        self.batches = 0
        self.waited = 0.0
        self.paused = 0.0
        self.started = time.perf_counter()

    def waiting_for(self, batches: TrainBatches) -> TrainBatch:
        """The next batch; the time it is waited for counts as data wait."""
        began = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - began
        return batch

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, batch: TrainBatch) -> None:
        hits = (logits.argmax(-1) == labels).sum()
        self.sums += torch.stack([loss * len(labels), hits])
        self.clips += len(labels)
        self.new_faults += batch.faults
        self.slow.update(batch.slow)
        self.batches += 1

    def restart(self) -> None:
        """Leaves out the time since the last reading, which was not spent on training."""
        self.started = time.perf_counter()
        self.waited = 0.0

    def read(
        self, engine: Any, rate: float, norm: torch.Tensor | float | None, epoch: int
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """The line of the log, over all ranks, and a new start, with the bad videos that are new and the epoch from
        which on they are barred. Every rank calls it, at the latest at the end of each epoch. Raises RunError where too
        many videos are bad."""
        counts = torch.tensor([self.clips, len(self.new_faults)], device=self.sums.device)
        sums = torch.cat([self.sums, counts])
        if self.world.size > 1:
            torch.distributed.all_reduce(sums)
        loss, hits, clips, faults = sums.tolist()
        everywhere = self.world.gather(self.new_faults) if faults else []
        new = [fault for some in everywhere for fault in some]
        bad = self.faults.take(new, epoch, self.batches * self.videos * self.world.size)
        elapsed = time.perf_counter() - self.started
        line = {
            "loss": loss / clips,
            "top1": hits / clips,
            "lr": rate,
            "grad_norm": None if norm is None else float(norm),
            "clips_per_s": clips / elapsed,
            "step_ms": 1000 * elapsed * engine.gradient_accumulation_steps() / self.batches,
            "data_wait": self.waited / elapsed,
            "skipped_steps": engine.skipped_steps,
            "faults": dict(self.faults.by_cause),
            "slow_decodes": dict(self.slow),
        }
        self.sums.zero_()
        self.clips = self.batches = 0
        self.new_faults = []
        self.restart()
        return line, bad
