"""Which sample comes when: pure functions of (seed, epoch, position), the same for any number of ranks and workers.

An epoch is one permutation of all videos. Optimiser step s of an epoch takes the next `step_samples` positions of it,
rank r of each micro-batch a fixed part of them. So all ranks take the same number of steps by construction, the state
of a run is two integers, and a run that goes on with other ranks or another batch size goes on at the same position.

The permutation is of the whole split and not of shards: a video is read by one request of its own bytes, so what an SSD
or a parallel file system gives does not depend on the order, and the shuffle is as good as it can be. It takes 4 bytes
a video, in the main process of a rank only: workers are sent the few numbers of each clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError


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


class Balance:
    """How often each class comes in an epoch of as many samples as there are videos: a class of n videos n^(1 - power)
    in proportion. power 0 leaves the classes as they are, 1 makes all alike, and 0.5 is square-root sampling (Mahajan
    et al. 2018, "Exploring the limits of weakly supervised pretraining", sec. 2.2).

    Without replacement as far as can be: a class of n videos that comes q times an epoch shows each of them q // n
    times, and the q % n that come once more walk from epoch to epoch through permutations of the class, so that over
    any number of first epochs no video of a class has come more than once more often than another of it.
    labels: (videos,) the class number of each. factors: (classes,) by which each class comes more often still, none for
    all alike; a class of factor 0 does not come. Raises ValueError where none comes.
    """

    def __init__(self, labels: np.ndarray, power: float, factors: np.ndarray | None = None):
        # numpy sorts 16 bits by radix, ten times as fast.
        short = labels.astype(np.uint16) if labels.min() >= 0 and labels.max() < 1 << 16 else labels
        classes, counts = np.unique(short, return_counts=True)
        by_class = np.argsort(short, kind="stable").astype(np.uint32)
        self.members = np.split(by_class, np.cumsum(counts)[:-1])
        weights = counts ** (1.0 - power) * (1.0 if factors is None else factors[classes])
        if not weights.any():
            raise ValueError("no class is left to be seen")
        self.quotas = _apportion(weights, len(labels))

    def samples(self, seed: int, epoch: int) -> np.ndarray:
        """The videos of an epoch (videos,) uint32, class by class."""
        parts = []
        for number, (members, quota) in enumerate(zip(self.members, self.quotas.tolist(), strict=True)):
            often, rest = divmod(quota, len(members))
            parts += [members] * often
            # Through the class's permutations, one behind the other, from where the last epoch left off.
            turn, at = divmod(epoch * rest, len(members))
            while rest:
                part = _permuted(members, np.random.SeedSequence([seed, turn], spawn_key=(number,)))[at : at + rest]
                parts.append(part)
                rest, turn, at = rest - len(part), turn + 1, 0
        return np.concatenate(parts)


def _apportion(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to `weights` with the sum `total`, by the largest remainders."""
    exact = weights * (total / weights.sum())
    parts = np.floor(exact).astype(np.int64)
    short = total - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:short]] += 1
    return parts


def _permuted(values: np.ndarray, seed: np.random.SeedSequence | list[int]) -> np.ndarray:
    # By sorting random keys with the places in their lowest bits: of ten million three times as fast as a shuffle,
    # whose every swap misses the cache.
    bits = len(values).bit_length()
    keys = np.random.default_rng(seed).integers(0, 1 << (64 - bits), len(values), np.uint64)
    keys <<= np.uint64(bits)
    keys |= np.arange(len(values), dtype=np.uint64)
    keys.sort()
    keys &= np.uint64((1 << bits) - 1)
    return values.take(keys.view(np.int64))  # as indexing by uint64, in two thirds of its time


def epoch_order(count: int, seed: int, epoch: int, balance: Balance | None = None) -> np.ndarray:
    """The videos of an epoch in their order, (count,) uint32: a permutation, or as `balance` says."""
    videos = np.arange(count, dtype=np.uint32) if balance is None else balance.samples(seed, epoch)
    return _permuted(videos, [seed, epoch])


def sample_rng(seed: int, draw: Draw, attempt: int = 0) -> np.random.Generator:
    """The random numbers of one sample: its clip, its crop and, when it is a bad one, its replacement."""
    return np.random.default_rng([seed, draw.epoch, draw.position, attempt])


@dataclass(frozen=True)
class TrainOrder:
    """The micro-batches of a training run over `count` videos.

    batch: videos of a rank's micro-batch; world: number of ranks; accumulate: micro-batches of an optimiser step;
    balance: how often each class comes, None for as often as it has videos.
    What is left of an epoch's permutation when less than one step remains is left out; it differs in each epoch.
    """

    count: int
    seed: int
    batch: int
    world: int
    accumulate: int
    balance: Balance | None = field(default=None, compare=False)

    @classmethod
    def fitting(
        cls, count: int, seed: int, batch: int, world: int, accumulate: int, balance: Balance | None = None
    ) -> TrainOrder:
        """The order with `batch` videos a rank, or as many as `count` allows when one step wants more than there are.

        Raises DataError when there are fewer videos than ranks times micro-batches.
        """
        if count < world * accumulate:
            parts = f"{world} ranks" + (f" x {accumulate} accumulated batches" if accumulate > 1 else "")
            raise DataError(f"{count} training videos are too few for {parts}: start fewer ranks, or add videos")
        return cls(count, seed, min(batch, count // (world * accumulate)), world, accumulate, balance)

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
        position, order_epoch, order = self.settle(start), -1, np.empty(0, np.uint32)
        while True:
            if position.epoch != order_epoch:
                order_epoch, order = position.epoch, epoch_order(self.count, self.seed, position.epoch, self.balance)
            for micro in range(self.accumulate):
                first = position.consumed + (micro * self.world + rank) * self.batch
                yield [Draw(int(order[p]), position.epoch, p) for p in range(first, first + self.batch)]
            position = self.after(position)


def rank_share(count: int, world: int, rank: int) -> range:
    """The videos that `rank` evaluates or embeds: each exactly once over all ranks, none twice to fill up."""
    return range(rank, count, world)
