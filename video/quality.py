"""What re-encoding costs in quality, and what it saves in decoding."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from .opening import open_video, scan_video
from .reencode import shown_frames
from .sampling import random_clip
from .scan import scan_source
from .source import Source

_FRAMES = 300  # compared, from the first on
_CLIPS = 4
_CLOCK = Fraction(1, 25)  # the filters pair frames by their stamps


@dataclass(frozen=True)
class Quality:
    """A re-encoded video beside its source. psnr: dB, of the mean squared error of all frames, 100 where there is none;
    ssim: mean (Wang et al. 2004); both of the luma at the encoded size. source_ms, encoded_ms: CPU time of reading a
    clip of 16 frames, every fourth, at 224 x 224."""

    psnr: float
    ssim: float
    source_ms: float
    encoded_ms: float


def measure_quality(source: str | Path, encoded: Path, frames: tuple[int, int], short_side: int, seed: int) -> Quality:
    """Compares `encoded`, which `reencode` has made of these frames with this `short_side`, with its source.

    Of a long video its first 300 frames. seed: of the starts of the clips. Errors: VideoError for what cannot be read.
    """
    first, after = frames
    place, copy = Source.of(source, None), Source.of(encoded, None)
    scans = [scan_source(place), scan_source(copy)]
    errors, similar = [], []
    originals = shown_frames(place, scans[0], first, min(after, first + _FRAMES), short_side, seek=False)
    copies = shown_frames(copy, scans[1], 0, min(after - first, _FRAMES), short_side)
    for psnr, ssim in _compared(originals, copies):
        errors.append(psnr)
        similar.append(ssim)
    error = float(np.mean(errors))
    psnr = min(10 * math.log10(255**2 / error), 100.0) if error else 100.0
    starts = [random_clip(after - first, 16, 4, np.random.default_rng([seed, clip])) for clip in range(_CLIPS)]
    source_ms = _clip_ms(source, [start + first for start in starts])
    return Quality(round(psnr, 2), round(float(np.mean(similar)), 4), source_ms, _clip_ms(encoded, starts))


def _compared(originals: Iterator[VideoFrame], copies: Iterator[VideoFrame]) -> Iterator[tuple[float, float]]:
    """(mean squared error, SSIM) of the luma of each pair, by FFmpeg's filters of these names."""
    filters: list[_Filter] = []
    for number, pair in enumerate(zip(originals, copies, strict=True)):
        filters = filters or [_Filter("psnr", "mse.y", pair[0]), _Filter("ssim", "Y", pair[0])]
        for frame in pair:
            frame.pts, frame.time_base = number, _CLOCK
        yield filters[0].of(*pair), filters[1].of(*pair)


class _Filter:
    """A filter of FFmpeg's that compares two videos, whose figure it writes beside each frame."""

    def __init__(self, name: str, figure: str, like: VideoFrame):
        self._graph = Graph()
        shape = (like.width, like.height, like.format)
        self._inputs = [self._graph.add_buffer(None, *shape, side, _CLOCK) for side in ("original", "copy")]
        compare, self._output = self._graph.add(name), self._graph.add("buffersink")
        for number, side in enumerate(self._inputs):
            side.link_to(compare, 0, number)
        compare.link_to(self._output)
        self._graph.configure()
        self._key = f"lavfi.{name}.{figure}"

    def of(self, original: VideoFrame, copy: VideoFrame) -> float:
        for side, frame in zip(self._inputs, (original, copy), strict=True):
            side.push(frame)
        return float(self._output.pull().metadata[self._key])


def _clip_ms(video: str | Path, clips: list[np.ndarray]) -> float:
    """CPU time of a clip, in milliseconds, from its opening on: the scan is kept in the index of a shard."""
    scan = scan_video(video)
    box = (0, 0, scan.info.height, scan.info.width)
    begin = time.process_time()
    for indices in clips:
        with open_video(video, scan=scan) as reader:
            reader.crops(indices, [box], 224)
    return round((time.process_time() - begin) / len(clips) * 1000, 2)
