"""Jobs of the worker tests, in a module that worker processes can import."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch

from tubelet.datasets import DataError
from tubelet.datasets.loading.jobs import Job, Trial
from tubelet.datasets.loading.workers import Batches, batches_made
from tubelet.video import VideoError

PLACES, SHAPE = 3, (2, 5)


@dataclass
class Faulty(Job):
    """Fills its place with the number of the item, plus 100 after a fault; `how` says what is wrong with an item."""

    how: dict[int, str]
    deadline: float = 30.0

    def first(self, item: int, place: int) -> Trial:
        return Trial(item, place, item)

    def after(self, trial: Trial, cause: str) -> Trial:
        faults = (*trial.faults, (str(trial.index), cause))
        return replace(trial, index=trial.item + 100, attempt=trial.attempt + 1, faults=faults)

    def fetch(self, trial: Trial) -> None:
        how = self.how.get(trial.index or 0)
        if how == "is far away":
            time.sleep(1.5 * self.deadline)
        if how == "is gone":
            raise DataError("the network is down")

    def load(self, trial: Trial, out: torch.Tensor) -> Any:
        assert trial.index is not None
        how = self.how.get(trial.index)
        if how == "spins":
            while True:
                pass
        if how == "stands":
            out.fill_(255)
            time.sleep(1e6)
        if how in ("SIGKILL", "SIGSEGV"):
            os.kill(os.getpid(), signal.Signals[how])
        if how == "exits":
            os._exit(3)
        if how == "raises":
            raise ZeroDivisionError("a defect")
        if how not in (None, "is far away"):
            raise VideoError(str(trial.index), how)
        out.fill_(trial.index)
        return os.getpid()


def without_end() -> Iterator[list[int]]:
    return ([number % 80, (number + 1) % 80, (number + 2) % 80] for number in count(step=PLACES))


def made(how: dict[int, str], workers: int, deadline: float = 30.0, batches: Iterator | None = None) -> Batches:
    return batches_made(Faulty(how, deadline), batches or without_end(), PLACES, SHAPE, workers)


if __name__ == "__main__":  # a main process to kill: the only item of its third batch keeps a worker busy for ever
    stream = made({6: "spins"}, 2)
    pids = {outcome.made for _ in range(2) for outcome in next(stream)[1]}
    print(*pids, stream._process.pid, flush=True)  # type: ignore[attr-defined]
    time.sleep(1e6)
