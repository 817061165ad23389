"""What worker processes do, as they know it: something that is tried, once or more often, for each place of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tubelet.video import VideoError

from ..errors import DataError


@dataclass(frozen=True)
class Trial:
    """One try to make the clip at `place` of a batch, from video `index`; None: there is none left to try.

    item: what the batch has there; attempt: 0 for the first; faults: (key, cause) of the tries before.
    """

    item: Any
    place: int
    index: int | None
    attempt: int = 0
    faults: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one place of a batch: `made` of video `index`, or None of None, after `faults`."""

    index: int | None
    made: Any
    faults: tuple[tuple[str, str], ...]


class Job(ABC):
    """What workers do; it is pickled once, on its way to them. deadline: seconds a clip may take."""

    deadline: float

    @abstractmethod
    def first(self, item: Any, place: int) -> Trial:
        """The first try for an item of a batch."""

    @abstractmethod
    def after(self, trial: Trial, cause: str) -> Trial:
        """The try that follows one that failed."""

    @abstractmethod
    def fetch(self, trial: Trial) -> None:
        """In a worker, before its deadline runs: brings to this machine what the clip is made of."""

    @abstractmethod
    def load(self, trial: Trial, out: torch.Tensor) -> Any:
        """In a worker: writes the clips to `out` and returns what else is to be known.

        What it raises is a fault of the video; but DataError, here and in `fetch`, ends it all.
        """

    def learn(self, news: Any) -> None:
        """Takes in what the main process tells, for all tries that follow."""
        raise TypeError(f"{type(self).__name__} has nothing to learn")


def attempt(
    job: Job, trial: Trial, clips: torch.Tensor, fetched: Callable[[], None] | None = None
) -> tuple[Any, str | None]:
    """What a trial made, or None and the cause. Raises DataError."""
    try:
        job.fetch(trial)
        if fetched is not None:
            fetched()
        return job.load(trial, clips[trial.place]), None
    except DataError:
        raise
    except VideoError as error:
        return None, error.cause
    except Exception as error:  # such as a size that no memory holds: a fault of this video, and named as such
        return None, f"{type(error).__name__}: {error}"
