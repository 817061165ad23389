"""Memory that processes share."""

from __future__ import annotations

import math
import mmap
import os
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np


class SharedMemory:
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


def _attached(shape: tuple[int, ...], handle: Any) -> SharedMemory:
    return SharedMemory(shape, handle.detach())
