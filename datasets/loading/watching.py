"""The watcher of the workers, and the workers: two kinds of process, see workers.py.

The watcher hands out clips one by one, ends a worker that outlasts its deadline, misses one that dies, and puts a fork
of itself in its place. It does nothing that can block.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ..errors import DataError
from .jobs import Job, Outcome, Trial, attempt
from .shared import SharedMemory

_PR_SET_PDEATHSIG = 1
_FETCH_DEADLINE_S = 1800.0  # of a shard that comes over a network
QUEUED = 2  # clips a worker has been sent: the one it makes, and one so that it need not wait for the next


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


def watch(main: Connection, job: Job, memory: SharedMemory, workers: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the main process's, which ends this one
    _Watcher(main, job, memory, workers).run()


class _Watcher:
    """Hands clips to workers and sees to it that each comes to an end."""

    def __init__(self, main: Connection, job: Job, memory: SharedMemory, workers: int):
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
        for queued in range(QUEUED):  # first to those who have nothing to do
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
            answer = attempt(job, trial, slots[slot], lambda: connection.send(None))
        except DataError as error:
            answer = error
        connection.send(answer)
