"""Processes that make clips, of which any may hang or die at any time without the run noticing more than a fault.

The main process sends micro-batches to a watcher, and gets back what became of each; the watcher hands the clips one by
one to its workers, which write them where they belong in memory that all share: no picture passes through a pipe. A
worker that outlasts the deadline is killed, and one that crashes is missed; its video has failed, the worker is
replaced by a fork of the watcher, and the job says what is tried instead. The watcher comes from a clean process
(forkserver), never from one with CUDA or threads, and does nothing that can block. All of them end when the main
process does, however that ends.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

import torch

from ..errors import DataError
from .jobs import Job, Outcome, Trial, attempt
from .shared import SharedMemory
from .watching import QUEUED, watch


def start_forkserver() -> None:
    """Starts the process that watchers are forked from, once, and returns while it still imports what they need: called
    early in a run, it is ready by the time that clips are wanted. Does nothing where there are no worker processes."""
    if sys.platform == "linux":
        multiprocessing.set_forkserver_preload([__name__])
        forkserver.ensure_running()


def batches_made(
    job: Job, batches: Iterator[Sequence | None], places: int, shape: tuple[int, ...], workers: int
) -> Batches:
    """The batches that `job` makes in `workers` processes (0: in this one), in the order of `batches`, whose items are
    at most `places` each, and None where the next is not known yet. shape: of what one item becomes, uint8."""
    return _InProcess(job, batches, shape) if workers == 0 else _InWorkers(job, batches, places, shape, workers)


class Batches(Iterator[tuple[torch.Tensor, list[Outcome]]]):
    """Pairs of clips (places, *shape) and what became of each place."""

    @abstractmethod
    def tell(self, news: Any) -> None:
        """Lets the job learn something; it holds for the batches that are not begun yet."""

    def close(self) -> None:
        """Ends the workers."""


class _InProcess(Batches):
    def __init__(self, job: Job, batches: Iterator[Sequence | None], shape: tuple[int, ...]):
        self._job, self._batches, self._shape = job, batches, shape

    def __next__(self) -> tuple[torch.Tensor, list[Outcome]]:
        items = next(self._batches)
        assert items is not None, "nothing is begun before it is asked for, so the next batch is always known"
        clips = torch.empty((len(items), *self._shape), dtype=torch.uint8)
        return clips, [self._outcome(self._job.first(item, place), clips) for place, item in enumerate(items)]

    def _outcome(self, trial: Trial, clips: torch.Tensor) -> Outcome:
        while trial.index is not None:
            made, cause = attempt(self._job, trial, clips)
            if cause is None:
                return Outcome(trial.index, made, trial.faults)
            trial = self._job.after(trial, cause)
        return Outcome(None, None, trial.faults)

    def tell(self, news: Any) -> None:
        self._job.learn(news)


class _InWorkers(Batches):
    """The main process's side. What a batch lies in goes back to the workers when nobody holds the batch any more."""

    def __init__(self, job: Job, batches: Iterator[Sequence | None], places: int, shape: tuple[int, ...], workers: int):
        if sys.platform != "linux":
            raise DataError("worker processes need Linux: use --workers 0")
        start_forkserver()
        # Two more than are on their way, for the batch that is trained on and the one before it.
        slots = 4 + math.ceil(QUEUED * workers / places)
        self._batches = batches
        memory = SharedMemory((slots, places, *shape))
        self._slots = memory.array
        self._free = deque(range(slots))
        self._waiting: deque[tuple[int, int, int]] = deque()  # number, slot and items of each batch on its way
        self._done: dict[int, list[Outcome]] = {}
        self._number = 0
        self._connection, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("forkserver").Process(
            target=watch, args=(theirs, job, memory, workers), daemon=True, name="watcher of video workers"
        )
        self._process.start()
        theirs.close()
        self._end = weakref.finalize(self, _end, self._connection, self._process)

    def __next__(self) -> tuple[torch.Tensor, list[Outcome]]:
        self._submit()
        if not self._waiting:
            raise StopIteration
        number, slot, items = self._waiting.popleft()
        try:
            while number not in self._done:
                message = self._connection.recv()
                if isinstance(message, DataError):
                    raise message
                finished, outcomes = message
                self._done[finished] = outcomes
        except (EOFError, OSError):
            raise self._watcher_is_gone() from None
        return self._handed_out(slot, items), self._done.pop(number)

    def _submit(self) -> None:
        while self._free and (items := next(self._batches, None)):
            slot = self._free.popleft()
            self._waiting.append((self._number, slot, len(items)))
            self._send((self._number, slot, items))
            self._number += 1

    def _handed_out(self, slot: int, items: int) -> torch.Tensor:
        clips = self._slots[slot][:items]
        if len(self._free) + len(self._waiting) < 2:  # someone collects batches: the workers keep what they need
            self._free.append(slot)
            return torch.from_numpy(clips.copy())
        # torch holds the array as long as any view of it lives.
        weakref.finalize(clips, self._free.append, slot).atexit = False
        return torch.from_numpy(clips)

    def tell(self, news: Any) -> None:
        self._send((None, None, news))

    def _send(self, message: tuple) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise self._watcher_is_gone() from None

    def _watcher_is_gone(self) -> DataError:
        self._process.join(5)
        return DataError(
            f"the process that watches the video workers has ended (exit code {self._process.exitcode}). Where memory "
            "ran out, use fewer --workers; a script that trains starts its work under `if __name__ == '__main__':`"
        )

    def close(self) -> None:
        self._end()


def _end(connection: Connection, process: Any) -> None:
    connection.close()  # what the watcher ends at, and its workers with it
    process.join(5)
    if process.is_alive():
        process.kill()
        process.join()
