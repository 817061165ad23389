"""No rank waits for ever: one that hears nothing of the others ends, and says so."""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .distributed import World

PATIENT = 1800.0
"""Seconds for what is rare and long: starting, evaluating, saving."""


class Watchdog:
    """Ends this process with one message when `beat` was not called for too long. The stacks of its threads go to
    `folder`, which says where it stood.

    A thread of its own, since a process that waits in a collective comes back neither by a signal nor by the time-outs
    of process groups that other libraries have made.
    """

    def __init__(self, world: World, limit: float, folder: Path):
        self._world, self._limit, self._folder = world, limit, folder
        self._what, self._until = "the start", time.monotonic() + max(PATIENT, limit)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(min(1.0, limit / 4),), daemon=True)
        self._thread.start()

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, *raised: object) -> None:
        self._closed.set()
        self._thread.join()

    def beat(self, what: str) -> None:
        """Something was done; `what` comes next."""
        with self._lock:
            self._what, self._until = what, time.monotonic() + self._limit

    @contextmanager
    def patient(self, what: str) -> Iterator[None]:
        """`what` may take its time."""
        with self._lock:
            self._what, self._until = what, time.monotonic() + max(PATIENT, self._limit)
        yield
        self.beat("the next step")

    def _watch(self, every: float) -> None:
        while not self._closed.wait(every):
            with self._lock:
                what, late = self._what, time.monotonic() > self._until
            if late:
                self._end(what)

    def _end(self, what: str) -> None:
        file = self._folder / f"stuck-rank-{self._world.rank}.txt"
        print(
            f"error: rank {self._world.rank} on {socket.gethostname()} has waited too long in {what} (--timeout "
            f"{self._limit:g} s): another process or its machine is dead or stuck, or what gives it data. "
            f"Look at the one that says nothing of this kind; {file} says where this one stood. The run goes on with "
            "--resume auto",
            file=sys.stderr,
            flush=True,
        )
        try:
            with file.open("w") as stacks:
                faulthandler.dump_traceback(stacks)
        except OSError:
            faulthandler.dump_traceback(sys.stderr)
        os._exit(1)
