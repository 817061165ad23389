"""One reader over three decoders: the face of a video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
import torch

from .errors import VideoError
from .info import VideoInfo
from .scan import Scan
from .source import Source
from .transforms import Box, crop_resize


class VideoReader(ABC):
    """An open video; use it as a context manager, in the process and thread that opened it.

    info: VideoInfo. backend: the decoder at work. fallback: why it is another one than was asked for, or None.
    """

    backend: str

    def __init__(self, source: Source, scan: Scan, fallback: str | None = None) -> None:
        self.info: VideoInfo = scan.info
        self.fallback = fallback
        self._source = source
        self._scan = scan
        self._closed = False

    def frames(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Those frames, counted from 0 in presentation order, in the order asked for; repeats are decoded once.

        Returns uint8 RGB (T, H, W, 3), turned upright; a frame of another size than the first is scaled to it.
        Errors: VideoError for an index out of range, and where a frame or one that it is predicted from is damaged.
        """
        if self._closed:
            raise VideoError(self._source.name, "the reader is closed")
        wanted = np.asarray(indices, np.int64).reshape(-1)
        outside = wanted[(wanted < 0) | (wanted >= self.info.frames)]
        if outside.size:
            raise VideoError(self._source.name, f"no frame {outside[0]}: it has frames 0 to {self.info.frames - 1}")
        clip = torch.empty((len(wanted), self.info.height, self.info.width, 3), dtype=torch.uint8)
        slots = clip.numpy()
        unique, first, inverse = np.unique(wanted, return_index=True, return_inverse=True)
        place = dict(zip(unique.tolist(), first.tolist(), strict=True))
        for index, image in self._read(unique):
            slots[place.pop(index)] = image
        if place:
            raise VideoError(self._source.name, f"frame {min(place)} of {self.info.frames} does not decode")
        for slot, origin in enumerate(first[inverse]):
            if slot != origin:
                slots[slot] = slots[origin]
        return clip

    def crops(self, indices: Sequence[int] | np.ndarray, boxes: Sequence[Box], size: int) -> torch.Tensor:
        """Those frames, as in `frames`, each cut to every one of `boxes` (top, left, height, width) and scaled to
        `size` pixels square: uint8 RGB (boxes, T, size, size, 3). What lies outside of the boxes is not converted.

        Errors: as `frames`, and ValueError for a box that is not inside the frame.
        """
        frames = self.frames(indices)
        return torch.stack([crop_resize(frames, box, size) for box in boxes])

    def times(self) -> np.ndarray:
        """(frames,) float64 seconds from the first frame, in presentation order."""
        return self._scan.times.copy()

    @abstractmethod
    def _read(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(index, uint8 RGB (H, W, 3)) of each of the ascending, distinct `wanted`, in any order."""

    @abstractmethod
    def _close(self) -> None:
        """Lets go of the file and the decoder."""

    def close(self) -> None:
        """Lets go of the file and the decoder; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
