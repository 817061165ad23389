"""One reader over three decoders: the face of a video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch

from .errors import VideoError
from .info import VideoInfo
from .source import Source
from .table import Scan
from .transforms import Box, check_box, crop_resize

_STREAMED = 32  # frames that a decoder without a stream of its own is asked for at once


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
        clip = torch.empty((np.size(indices), self.info.height, self.info.width, 3), dtype=torch.uint8)
        slots = clip.numpy()
        for places, picture in self._each(indices):
            image = self._rgb(picture)
            for place in places:
                slots[place] = image
        return clip

    def crops(
        self, indices: Sequence[int] | np.ndarray, boxes: Sequence[Box], size: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Those frames, as in `frames`, each cut to every one of `boxes` (top, left, height, width) and scaled to
        `size` pixels square: uint8 RGB (boxes, T, size, size, 3), written to `out` where one is given. What lies
        outside of the boxes is not converted.

        Errors: as `frames`, and ValueError for a box that is not inside the frame or an `out` of another shape.
        """
        clips = self._room(indices, boxes, size, out)
        frames = self.frames(indices)
        for clip, box in zip(clips, boxes, strict=True):
            clip.copy_(crop_resize(frames, box, size))
        return clips

    def stream(self, indices: np.ndarray, box: Box, size: int) -> Iterator[np.ndarray]:
        """Those frames, ascending and distinct, one by one as they are decoded: uint8 RGB (size, size, 3), cut and
        scaled as in `crops`. One pass, in memory that does not grow with their number. Errors: as `crops`."""
        for start in range(0, len(indices), _STREAMED):
            yield from self.crops(indices[start : start + _STREAMED], [box], size)[0].numpy()

    def _room(self, indices: Sequence[int] | np.ndarray, boxes: Sequence[Box], size: int, out: torch.Tensor | None):
        """Where `crops` writes, with what it was asked for checked."""
        for box in boxes:
            check_box(box, self.info.height, self.info.width)
        shape = (len(boxes), np.size(indices), size, size, 3)
        if out is None:
            return torch.empty(shape, dtype=torch.uint8)
        if out.shape != shape or out.dtype != torch.uint8:
            raise ValueError(f"`out` is {out.dtype} {tuple(out.shape)} where {shape} of uint8 is wanted")
        return out

    def _each(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[list[int], Any]]:
        """(places in `indices`, picture) of each distinct frame asked for, in any order."""
        if self._closed:
            raise VideoError(self._source.name, "the reader is closed")
        wanted = np.asarray(indices, np.int64).reshape(-1)
        outside = wanted[(wanted < 0) | (wanted >= self.info.frames)]
        if outside.size:
            raise VideoError(self._source.name, f"no frame {outside[0]}: it has frames 0 to {self.info.frames - 1}")
        places: dict[int, list[int]] = {}
        for place, index in enumerate(wanted.tolist()):
            places.setdefault(index, []).append(place)
        for index, picture in self._read(np.array(sorted(places), np.int64)):
            yield places.pop(index), picture
        if places:
            raise VideoError(self._source.name, f"frame {min(places)} of {self.info.frames} does not decode")

    def times(self) -> np.ndarray:
        """(frames,) float64 seconds from the first frame, in presentation order."""
        return self._scan.times.copy()

    @abstractmethod
    def _read(self, wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
        """(index, picture) of each of the ascending, distinct `wanted`, in any order; a picture is `_rgb`'s affair."""

    @abstractmethod
    def _rgb(self, picture: Any) -> np.ndarray:
        """uint8 RGB (H, W, 3) of what `_read` gave, upright."""

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
