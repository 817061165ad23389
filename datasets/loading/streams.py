"""Videos from their first frame to their last, each decoded once however its clips overlap, in constant memory.

A part, some videos in their order, is streamed by one worker process, so the clips of a part come in an order that no
number of workers changes. A worker writes each clip into memory that it shares with the main process, and waits when
that is full. One that hangs is ended and one that crashes is missed: its video has failed from there on, and a new
worker goes on with the next.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from ..errors import DataError
from ..videos import Videos
from .shared import SharedMemory
from .streaming import StreamSettings, cause_of, clips_of_video, work
from .workers import start_forkserver

_FETCH_DEADLINE_S = 1800.0  # of a shard that comes over a network
_SCANNED_BYTES_S = 2e6  # at least; a file without an index is read through before its first clip


@dataclass(frozen=True)
class StreamedClip:
    """frames: uint8 (T, S, S, 3), valid until the next is asked for; start, end: seconds in the file; done: the share
    of its video that has been gone through."""

    part: int
    video: int
    start: float
    end: float
    done: float
    frames: np.ndarray


@dataclass(frozen=True)
class StreamedVideo:
    """The end of a video, and what is wrong with it where that came too early."""

    part: int
    video: int
    cause: str | None


@dataclass(frozen=True)
class StreamedPart:
    """The end of a part: all its clips have come."""

    part: int


Streamed = StreamedClip | StreamedVideo | StreamedPart


def streamed(
    videos: Videos, settings: StreamSettings, parts: Iterator[tuple[int, Sequence[int]]], workers: int, ahead: int
) -> Iterator[Streamed]:
    """The clips of `parts`, (number, videos) each; those of different parts come as they are ready.

    workers: processes that decode (0: this one, which cannot end a decoder that hangs); ahead: clips that each of them
    may have decoded before they are taken. Raises DataError for a shard that cannot be fetched.
    """
    if workers:
        return _Streams(videos, settings, parts, workers, ahead).run()
    return _streamed_here(videos, settings, parts)


def _streamed_here(
    videos: Videos, settings: StreamSettings, parts: Iterator[tuple[int, Sequence[int]]]
) -> Iterator[Streamed]:
    for part, numbers in parts:
        for number in numbers:
            cause = None
            try:
                for start, end, done, frames in clips_of_video(videos, number, settings, lambda: None):
                    yield StreamedClip(part, number, start, end, done, np.stack(frames))
            except DataError:
                raise
            except Exception as error:  # a fault of this video, whatever it is
                cause = cause_of(error)
            yield StreamedVideo(part, number, cause)
        yield StreamedPart(part)


class _Worker:
    """One worker process as the main process knows it."""

    def __init__(self, videos: Videos, settings: StreamSettings, slots: int):
        memory = SharedMemory((slots, *settings.shape))
        self.slots = memory.array
        self.part = -1
        self.todo: deque[int] = deque()
        self.due = 0.0
        self.connection, theirs = multiprocessing.Pipe()
        life, its_life = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("forkserver").Process(
            target=work, args=(theirs, its_life, videos, settings, memory), daemon=True, name="video stream"
        )
        self.process.start()
        theirs.close()
        its_life.close()
        self.end = weakref.finalize(self, _end, self.connection, life, self.process)

    def begin(self, part: int, numbers: Sequence[int]) -> None:
        self.part, self.todo = part, deque(numbers)
        self.due = time.monotonic() + _FETCH_DEADLINE_S
        self.send(list(numbers))

    def send(self, message: Any) -> None:
        with suppress(OSError):  # of one that has died, which its connection tells
            self.connection.send(message)

    @property
    def is_overdue(self) -> bool:
        # One that has filled its memory waits for us: its clips lie in the connection.
        return time.monotonic() > self.due and not self.connection.poll()


def _end(connection: Connection, life: Connection, process: Any) -> None:
    connection.close()
    life.close()
    if process.is_alive():
        process.kill()
    process.join()


class _Streams:
    """The main process's side: one part a worker, the next as soon as it is done."""

    def __init__(
        self,
        videos: Videos,
        settings: StreamSettings,
        parts: Iterator[tuple[int, Sequence[int]]],
        workers: int,
        ahead: int,
    ):
        if sys.platform != "linux":
            raise DataError("worker processes need Linux: use --workers 0")
        start_forkserver()
        self._videos, self._settings, self._parts, self._ahead = videos, settings, parts, ahead
        self._workers: list[_Worker] = []
        for _ in range(workers):
            if (next_part := next(parts, None)) is None:
                break
            self._begin(next_part)

    def _begin(self, part: tuple[int, Sequence[int]]) -> None:
        worker = _Worker(self._videos, self._settings, self._ahead)
        worker.begin(*part)
        self._workers.append(worker)

    def run(self) -> Iterator[Streamed]:
        try:
            while self._workers:
                for worker in self._ready():
                    yield from self._hear(worker)
        finally:
            for worker in self._workers:
                worker.end()

    def _ready(self) -> list[_Worker]:
        """Workers that have something to say, or have run out of time."""
        by_connection = {worker.connection: worker for worker in self._workers}
        due = min(worker.due for worker in self._workers)
        ready = wait(list(by_connection), max(0.0, due - time.monotonic()))
        heard = [by_connection[connection] for connection in ready]  # type: ignore[index]  # Connections
        return heard or [worker for worker in self._workers if worker.is_overdue]

    def _hear(self, worker: _Worker) -> Iterator[Streamed]:
        cause = None
        try:
            if worker.is_overdue:
                cause = f"not decoded within {self._settings.deadline:g} s: the decoder hangs or the disk is very slow"
            else:
                message = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            cause = f"the decoder crashed (exit code {worker.process.exitcode})"
        if cause is not None:
            yield from self._replace(worker, cause)
            return
        worker.due = time.monotonic() + self._settings.deadline
        if message is None:  # fetched
            worker.due += float(self._videos.sizes[worker.todo[0]]) / _SCANNED_BYTES_S
        elif isinstance(message, DataError):
            raise message
        elif isinstance(message, tuple):
            slot, start, end, done = message
            yield StreamedClip(worker.part, worker.todo[0], start, end, done, worker.slots[slot])
            worker.due = time.monotonic() + self._settings.deadline
            worker.send(slot)
        else:
            yield StreamedVideo(worker.part, worker.todo.popleft(), message or None)
            worker.due = time.monotonic() + _FETCH_DEADLINE_S
            if not worker.todo:
                yield from self._finish(worker)

    def _finish(self, worker: _Worker) -> Iterator[Streamed]:
        yield StreamedPart(worker.part)
        if (part := next(self._parts, None)) is not None:
            worker.begin(*part)
        else:
            worker.end()
            self._workers.remove(worker)

    def _replace(self, worker: _Worker, cause: str) -> Iterator[Streamed]:
        worker.end()
        self._workers.remove(worker)
        yield StreamedVideo(worker.part, worker.todo.popleft(), cause)
        if worker.todo:
            self._begin((worker.part, list(worker.todo)))
            return
        yield StreamedPart(worker.part)
        if (part := next(self._parts, None)) is not None:
            self._begin(part)
