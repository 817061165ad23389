"""Which sample comes when: pure functions of (seed, epoch, position), the same for any number of ranks and workers.

An epoch is one permutation of all videos. Optimiser step s of an epoch takes the next `step_samples` positions of it,
rank r of each micro-batch a fixed part of them. So all ranks take the same number of steps by construction, the state
of a run is two integers, and a run that goes on with other ranks or another batch size goes on at the same position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .errors import DataError


@dataclass(frozen=True)
class Draw:
    """One sample of a run: video `index`, at `position` of `epoch`; all that is random about it follows from these."""

    index: int
    epoch: int
    position: int


@dataclass(frozen=True)
class Position:
    """Where a run stands: `consumed` samples of `epoch` have been trained on."""

    epoch: int
    consumed: int


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation (count,) int64 of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def sample_rng(seed: int, draw: Draw, attempt: int = 0) -> np.random.Generator:
    """The random numbers of one sample: its clip, its crop and, when it is a bad one, its replacement."""
    return np.random.default_rng([seed, draw.epoch, draw.position, attempt])


@dataclass(frozen=True)
class TrainOrder:
    """The micro-batches of a training run over `count` videos.

    batch: videos of a rank's micro-batch; world: number of ranks; accumulate: micro-batches of an optimiser step.
    What is left of an epoch's permutation when less than one step remains is left out; it differs in each epoch.
    """

    count: int
    seed: int
    batch: int
    world: int
    accumulate: int

    @classmethod
    def fitting(cls, count: int, seed: int, batch: int, world: int, accumulate: int) -> TrainOrder:
        """The order with `batch` videos a rank, or as many as `count` allows when one step wants more than there are.

        Raises DataError when there are fewer videos than ranks times micro-batches.
        """
        if count < world * accumulate:
            parts = f"{world} ranks" + (f" x {accumulate} accumulated batches" if accumulate > 1 else "")
            raise DataError(f"{count} training videos are too few for {parts}: start fewer ranks, or add videos")
        return cls(count, seed, min(batch, count // (world * accumulate)), world, accumulate)

    @property
    def step_samples(self) -> int:
        return self.batch * self.world * self.accumulate

    @property
    def steps_per_epoch(self) -> int:
        return self.count // self.step_samples

    def settle(self, position: Position) -> Position:
        """`position`, or the start of the next epoch where less than one step is left of this one."""
        if self.count - position.consumed < self.step_samples:
            return Position(position.epoch + 1, 0)
        return position

    def after(self, position: Position) -> Position:
        """Where the run stands one optimiser step after `position`."""
        position = self.settle(position)
        return self.settle(Position(position.epoch, position.consumed + self.step_samples))

    def draws(self, start: Position, rank: int) -> Iterator[list[Draw]]:
        """The micro-batches of `rank` from `start` on, without end."""
        position, order_epoch, order = self.settle(start), -1, np.empty(0, np.int64)
        while True:
            if position.epoch != order_epoch:
                order_epoch, order = position.epoch, epoch_order(self.count, self.seed, position.epoch)
            for micro in range(self.accumulate):
                first = position.consumed + (micro * self.world + rank) * self.batch
                yield [Draw(int(order[p]), position.epoch, p) for p in range(first, first + self.batch)]
            position = self.after(position)


def rank_share(count: int, world: int, rank: int) -> range:
    """The videos that `rank` evaluates or embeds: each exactly once over all ranks, none twice to fill up."""
    return range(rank, count, world)
