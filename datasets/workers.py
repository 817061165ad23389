"""Processes that make clips, of which any may hang or die at any time without the run noticing more than a fault.

The main process sends micro-batches to a watcher, and gets back what became of each; the watcher hands the clips one by
one to its workers, which write them where they belong in memory that all share: no picture passes through a pipe. A
worker that outlasts the deadline is killed, and one that crashes is missed; its video has failed, the worker is
replaced by a fork of the watcher, and the job says what is tried instead. The watcher comes from a clean process
(forkserver), never from one with CUDA or threads, and does nothing that can block. All of them end when the main
process does, however that ends.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import multiprocessing
import os
import signal
import sys
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import torch

from tubelet.video import VideoError

from .errors import DataError

_PR_SET_PDEATHSIG = 1
_FETCH_DEADLINE_S = 1800.0  # of a shard that comes over a network
_QUEUED = 2  # clips a worker has been sent: the one it makes, and one so that it need not wait for the next


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
            made, cause = _try(self._job, trial, clips)
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
        slots = 4 + math.ceil(_QUEUED * workers / places)
        self._batches = batches
        memory = _Memory((slots, places, *shape))
        self._slots = memory.array
        self._free = deque(range(slots))
        self._waiting: deque[tuple[int, int, int]] = deque()  # number, slot and items of each batch on its way
        self._done: dict[int, list[Outcome]] = {}
        self._number = 0
        self._connection, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_watch, args=(theirs, job, memory, workers), daemon=True, name="watcher of video workers"
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


class _Memory:
    """uint8 memory of `shape` that processes share, as `array`; gone with the last of them. It does not count against
    the size of /dev/shm, which is 64 MB in a container."""

    def __init__(self, shape: tuple[int, ...], handle: int | None = None):
        self.shape = shape
        self._handle = os.memfd_create("tubelet") if handle is None else handle
        if handle is None:
            os.ftruncate(self._handle, math.prod(shape))
        self.array = np.frombuffer(mmap.mmap(self._handle, math.prod(shape)), np.uint8).reshape(shape)

    def __reduce__(self) -> tuple:
        return _attached, (self.shape, DupFd(self._handle))

    def __del__(self) -> None:
        os.close(self._handle)


def _attached(shape: tuple[int, ...], handle: Any) -> _Memory:
    return _Memory(shape, handle.detach())


def _try(
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


@dataclass
class _Batch:
    number: int
    slot: int
    outcomes: list[Outcome | None]
    left: int


@dataclass
class _Worker:
    """A worker as the watcher knows it. clips: what it has been sent, the first of which it has to have `fetched`, and
    then made, before the time `due`."""

    pid: int
    connection: Connection
    clips: deque[tuple[_Batch, Trial]] = field(default_factory=deque)
    fetched: bool = False
    due: float = 0.0

    def begin(self, fetched: bool, seconds: float) -> None:
        self.fetched, self.due = fetched, time.monotonic() + seconds


def _watch(main: Connection, job: Job, memory: _Memory, workers: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the main process's, which ends this one
    _Watcher(main, job, memory, workers).run()


class _Watcher:
    """Hands clips to workers and sees to it that each comes to an end."""

    def __init__(self, main: Connection, job: Job, memory: _Memory, workers: int):
        self.main, self.job = main, job
        self.slots = torch.from_numpy(memory.array)
        self.pending: deque[tuple[_Batch, Trial]] = deque()
        self.killed: list[int] = []
        self.workers: list[_Worker] = []
        for _ in range(workers):
            self.workers.append(self._new_worker())

    def run(self) -> None:
        """Until the main process hangs up or ends."""
        try:
            while True:
                self._hand_out()
                by_connection = {worker.connection: worker for worker in self.workers}
                for ready in wait([self.main, *by_connection], self._patience()):
                    if ready is self.main:
                        self._take(self.main.recv())
                    else:
                        self._hear(by_connection[ready])  # type: ignore[index]  # a Connection
                self._end_overdue()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            for worker in self.workers:
                os.kill(worker.pid, signal.SIGKILL)

    def _take(self, message: tuple) -> None:
        number, slot, content = message
        if number is None:
            self.job.learn(content)
            return
        batch = _Batch(number, slot, [None] * len(content), len(content))
        for place, item in enumerate(content):
            self._go_on(batch, self.job.first(item, place), self.pending.append)

    def _go_on(self, batch: _Batch, trial: Trial, enqueue: Any) -> None:
        if trial.index is None:
            self._settle(batch, trial.place, Outcome(None, None, trial.faults))
        else:
            enqueue((batch, trial))

    def _settle(self, batch: _Batch, place: int, outcome: Outcome) -> None:
        batch.outcomes[place] = outcome
        batch.left -= 1
        if not batch.left:
            self.main.send((batch.number, batch.outcomes))

    def _hand_out(self) -> None:
        for queued in range(_QUEUED):  # first to those who have nothing to do
            for worker in self.workers:
                if self.pending and len(worker.clips) == queued:
                    batch, trial = self.pending[0]
                    try:
                        worker.connection.send((batch.slot, trial))
                    except OSError:  # it has died, of another clip or of none, which its connection will tell
                        continue
                    if not worker.clips:
                        worker.begin(False, _FETCH_DEADLINE_S)
                    worker.clips.append(self.pending.popleft())

    def _patience(self) -> float | None:
        """Seconds until the next deadline."""
        due = [worker.due for worker in self.workers if worker.clips]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _hear(self, worker: _Worker) -> None:
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            _, status = os.waitpid(worker.pid, 0)
            self._replace(worker, f"the decoder crashed ({_ending(os.waitstatus_to_exitcode(status))})")
            return
        if answer is None:
            worker.begin(True, self.job.deadline)
            return
        batch, trial = worker.clips.popleft()
        worker.begin(False, _FETCH_DEADLINE_S)
        if isinstance(answer, DataError):
            self.main.send(answer)
            return
        made, cause = answer
        if cause is None:
            self._settle(batch, trial.place, Outcome(trial.index, made, trial.faults))
        else:
            self._go_on(batch, self.job.after(trial, cause), self.pending.appendleft)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for worker in list(self.workers):
            if worker.clips and now > worker.due and not worker.connection.poll():
                os.kill(worker.pid, signal.SIGKILL)
                self.killed.append(worker.pid)
                late = f"not decoded within {self.job.deadline:g} s: the decoder hangs or the disk is very slow"
                self._replace(worker, late if worker.fetched else f"not fetched within {_FETCH_DEADLINE_S:g} s")
        # One that waits for a dead disk ends only when the disk answers: nobody waits for it.
        self.killed = [pid for pid in self.killed if os.waitpid(pid, os.WNOHANG) == (0, 0)]

    def _replace(self, worker: _Worker, cause: str) -> None:
        worker.connection.close()
        at = self.workers.index(worker)
        del self.workers[at]
        self.workers.insert(at, self._new_worker())
        clips = list(worker.clips)
        self.pending.extendleft(reversed(clips[1:]))
        for batch, trial in clips[:1]:
            self._go_on(batch, self.job.after(trial, cause), self.pending.appendleft)

    def _new_worker(self) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        watcher = os.getpid()
        pid = os.fork()
        if pid:
            theirs.close()
            return _Worker(pid, ours)
        code = 1
        try:
            for connection in (self.main, ours, *(worker.connection for worker in self.workers)):
                connection.close()
            _work(self.job, self.slots, theirs, watcher)
            code = 0
        finally:
            os._exit(code)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name + (": out of memory?" if code == -signal.SIGKILL else "")


def _work(job: Job, slots: torch.Tensor, connection: Connection, watcher: int) -> None:
    # Even one that spins inside a decoder ends with its watcher.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != watcher:
        return
    torch.set_num_threads(1)
    while True:
        try:
            slot, trial = connection.recv()
        except EOFError:
            return
        answer: Any
        try:
            answer = _try(job, trial, slots[slot], lambda: connection.send(None))
        except DataError as error:
            answer = error
        connection.send(answer)
