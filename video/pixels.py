"""From a decoder's frame to upright RGB, whole or only the part that is wanted."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

from .transforms import Box, crop_resize

# Scaled as they are and turned RGB afterwards: at one size FFmpeg has a fast way to RGB, which saves half of the time.
_SCALED_FIRST = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p")


class Pixels:
    """Frames of one video as RGB. height, width: upright; rotation: degrees clockwise that lead there."""

    def __init__(self, height: int, width: int, rotation: int) -> None:
        self._turns = -rotation // 90
        self._height, self._width = (width, height) if rotation % 180 else (height, width)
        # One for each use: they keep FFmpeg's scaling context, which each frame would otherwise make anew.
        self._to_rgb, self._to_size, self._size_to_rgb = VideoReformatter(), VideoReformatter(), VideoReformatter()
        self._cut: _Cut | None = None

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        """uint8 (H, W, 3), a view; a frame of another size than the video's is scaled to it."""
        return np.rot90(self._coded_rgb(frame), self._turns)

    def crop(self, frame: VideoFrame, box: Box, size: int) -> np.ndarray:
        """uint8 (size, size, 3), a view: `box` (top, left, height, width) of the upright frame, scaled bilinearly.

        Where colour has fewer samples than there are pixels, those of a box with odd edges lie up to a pixel off.
        """
        box = self._unturned(box)
        name = frame.format.name
        if (frame.width, frame.height) != (self._width, self._height) or not _is_planar(name):
            image = crop_resize(torch.from_numpy(self._coded_rgb(frame))[None], box, size)[0].numpy()
        else:
            if self._cut is None or not self._cut.fits(name, box):
                self._cut = _Cut(name, box)
            cut = self._cut.out_of(frame, box)
            if name in _SCALED_FIRST:
                cut = self._to_size.reformat(cut, size, size, name, threads=1)
            image = _image(self._size_to_rgb.reformat(cut, size, size, "rgb24", threads=1))
        return np.rot90(image, self._turns) if self._turns else image

    def _coded_rgb(self, frame: VideoFrame) -> np.ndarray:
        return _image(self._to_rgb.reformat(frame, self._width, self._height, "rgb24", threads=1))

    def _unturned(self, box: Box) -> Box:
        """The box of the frame as it was coded."""
        top, left, height, width = box
        clockwise = -self._turns % 4
        if clockwise == 1:
            return self._height - left - width, top, width, height
        if clockwise == 2:
            return self._height - top - height, self._width - left - width, height, width
        if clockwise == 3:
            return left, self._width - top - height, width, height
        return box


class _Cut:
    """A frame as large as a box, in the decoder's own format, that what is in the box is copied to."""

    def __init__(self, name: str, box: Box) -> None:
        self._frame = VideoFrame(box[3], box[2], name)
        self._planes = [samples(plane) for plane in self._frame.planes]

    def fits(self, name: str, box: Box) -> bool:
        return (self._frame.height, self._frame.width, self._frame.format.name) == (box[2], box[3], name)

    def out_of(self, frame: VideoFrame, box: Box) -> VideoFrame:
        self._frame.colorspace, self._frame.color_range = frame.colorspace, frame.color_range
        for plane, place in zip(frame.planes, self._planes, strict=True):
            row, column = box[0] // -(-frame.height // plane.height), box[1] // -(-frame.width // plane.width)
            place[...] = samples(plane)[row : row + place.shape[0], column : column + place.shape[1]]
        return self._frame


def samples(plane: VideoPlane) -> np.ndarray:
    """uint8 (height, width) of a plane with a byte a sample, a view."""
    return np.ndarray((plane.height, plane.width), np.uint8, memoryview(plane), 0, (plane.line_size, 1))


@cache
def _is_planar(name: str) -> bool:
    """Whether each component of a format lies in a plane of its own, a byte a sample."""
    format = VideoFormat(name)
    apart = len({part.plane for part in format.components}) == len(format.components)
    return format.is_planar and apart and all(part.bits == 8 for part in format.components)


def _image(rgb: VideoFrame) -> np.ndarray:
    plane = rgb.planes[0]
    return np.ndarray((rgb.height, rgb.width, 3), np.uint8, memoryview(plane), 0, (plane.line_size, 3, 1))
