"""A run that is asked to end: SIGTERM and SIGUSR1, which schedulers send before they take a machine away."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from .distributed import World


class Stopping:
    """Whether the run is to end, agreed on by all ranks, whichever got the signal.

    The flags travel while a step is computed and are looked at after the next one, so that nobody waits for them.
    """

    def __init__(self, world: World):
        self._asked = False
        self._group: dist.ProcessGroup | None = None
        if world.size > 1:
            self._group = dist.new_group(backend="gloo")  # type: ignore[assignment]  # this rank is in it
        self._flag = torch.zeros(1)
        self._pending: dist.Work | None = None
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._ask)

    def __enter__(self) -> Stopping:
        return self

    def __exit__(self, *raised: object) -> None:
        """What goes on after the run ends at these signals again, and so do the processes it starts."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def agreed(self) -> bool:
        """Every rank calls it once a step."""
        if self._group is None:
            return self._asked
        stops = False
        if self._pending is not None:
            self._pending.wait()
            stops = bool(self._flag)
        self._flag.fill_(float(self._asked))
        self._pending = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return stops
