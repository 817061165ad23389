"""A decoder other than PyAV, with PyAV behind it: whatever the guest refuses, PyAV decides."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from .backend_pyav import PyAVReader
from .errors import Unsuited
from .reader import VideoReader


class GuestReader(VideoReader):
    """Reads with the guest until it refuses; from then on with PyAV, which `backend` and `fallback` tell."""

    _decoder: Any
    _host: PyAVReader | None = None

    @abstractmethod
    def _batch(self, wanted: np.ndarray) -> np.ndarray:
        """uint8 RGB (T, H, W, 3) of the ascending, distinct `wanted`. Errors: Unsuited, with the reason."""

    def _read(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        if self._host is None:
            try:
                yield from zip(wanted.tolist(), self._checked(wanted), strict=True)
                return
            except Unsuited as reason:
                self.backend, self.fallback = "pyav", str(reason)
                self._host = PyAVReader(self._source, self._scan)
        for index, frame in self._host._read(wanted):
            yield index, self._host._rgb(frame)

    def _rgb(self, picture: np.ndarray) -> np.ndarray:
        return picture

    def _checked(self, wanted: np.ndarray) -> np.ndarray:
        images = self._batch(wanted)
        if images.shape[1:3] != (self.info.height, self.info.width):
            raise Unsuited(f"{self.backend} gives frames of {images.shape[1]} x {images.shape[2]}")
        return images

    def _close(self) -> None:
        if self._host is not None:
            self._host.close()
        self._decoder = None


def first_line(error: Exception) -> str:
    """A decoder's error without its C++ stack."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
