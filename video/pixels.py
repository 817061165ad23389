"""From a decoder's frame to upright RGB, whole or only the part that is wanted."""

from __future__ import annotations

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
        self._cut: VideoFrame | None = None

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        """uint8 (H, W, 3), a view; a frame of another size than the video's is scaled to it."""
        return np.rot90(self._coded_rgb(frame), self._turns)

    def crop(self, frame: VideoFrame, box: Box, size: int) -> np.ndarray:
        """uint8 (size, size, 3), a view: `box` (top, left, height, width) of the upright frame, scaled bilinearly.

        Where colour has fewer samples than there are pixels, those of a box with odd edges lie up to a pixel off.
        """
        box = self._unturned(box)
        if (frame.width, frame.height) != (self._width, self._height) or not _is_planar(frame.format):
            image = crop_resize(torch.from_numpy(self._coded_rgb(frame))[None], box, size)[0].numpy()
        else:
            cut, name = self._cut_out(frame, box), frame.format.name
            if name in _SCALED_FIRST:
                cut = self._to_size.reformat(cut, size, size, name, threads=1)
            image = _image(self._size_to_rgb.reformat(cut, size, size, "rgb24", threads=1))
        return np.rot90(image, self._turns)

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

    def _cut_out(self, frame: VideoFrame, box: Box) -> VideoFrame:
        """A frame of its own of what is in the box, in the frame's own format."""
        top, left, height, width = box
        cut = self._cut
        if cut is None or (cut.height, cut.width, cut.format.name) != (height, width, frame.format.name):
            cut = self._cut = VideoFrame(width, height, frame.format.name)
        cut.colorspace, cut.color_range = frame.colorspace, frame.color_range
        for source, target in zip(frame.planes, cut.planes, strict=True):
            row, column = top // -(-frame.height // source.height), left // -(-frame.width // source.width)
            _samples(target)[...] = _samples(source)[row : row + target.height, column : column + target.width]
        return cut


def _samples(plane: VideoPlane) -> np.ndarray:
    """uint8 (height, width) of a plane, a view."""
    return np.ndarray((plane.height, plane.width), np.uint8, memoryview(plane), 0, (plane.line_size, 1))


def _is_planar(format: VideoFormat) -> bool:
    """Whether each component lies in a plane of its own, a byte a sample."""
    parts = format.components
    apart = len({part.plane for part in parts}) == len(parts)
    return format.is_planar and apart and all(part.bits == 8 for part in parts)


def _image(rgb: VideoFrame) -> np.ndarray:
    plane = rgb.planes[0]
    return np.ndarray((rgb.height, rgb.width, 3), np.uint8, memoryview(plane), 0, (plane.line_size, 3, 1))
