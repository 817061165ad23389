"""What re-encoding costs in quality, and what it saves in decoding."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from av.video.frame import VideoFrame
from torch.nn.functional import avg_pool2d

from .opening import open_video, scan_video
from .pixels import samples
from .reencode import shown_frames
from .sampling import random_clip
from .scan import scan_source
from .source import Source

_FRAMES = 300  # compared, from the first on
_CLIPS = 4


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
    for squared, ssim in _compared(originals, copies):
        errors.append(squared)
        similar.append(ssim)
    error = float(np.mean(errors))
    psnr = min(10 * math.log10(255**2 / error), 100.0) if error else 100.0
    starts = [random_clip(after - first, 16, 4, np.random.default_rng([seed, clip])) for clip in range(_CLIPS)]
    source_ms = _clip_ms(source, [start + first for start in starts])
    return Quality(round(psnr, 2), round(float(np.mean(similar)), 4), source_ms, _clip_ms(encoded, starts))


def _compared(originals: Iterator[VideoFrame], copies: Iterator[VideoFrame]) -> Iterator[tuple[float, float]]:
    """(mean squared error, SSIM) of the luma of each pair."""
    for pair in zip(originals, copies, strict=True):
        original, copy = (torch.from_numpy(samples(frame.planes[0])).float()[None] for frame in pair)
        yield float((original - copy).square().mean()), _ssim(original, copy)


def _ssim(x: torch.Tensor, y: torch.Tensor) -> float:
    """Structural similarity of (1, H, W) in 0 to 255, Wang et al. 2004, equation 13. As FFmpeg's filter of that name
    takes them, the windows are flat, 8 pixels square and 4 apart."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (avg_pool2d(each, 8, 4) for each in (x, y, x * x, y * y, x * y))
    variances, covariance = mean_xx - mean_x**2 + mean_yy - mean_y**2, mean_xy - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((likeness / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean())


def _clip_ms(video: str | Path, clips: list[np.ndarray]) -> float:
    """CPU time of a clip, in milliseconds, from its opening on: the scan is kept in the index of a shard."""
    scan = scan_video(video)
    box = (0, 0, scan.info.height, scan.info.width)
    begin = time.process_time()
    for indices in clips:
        with open_video(video, scan=scan) as reader:
            reader.crops(indices, [box], 224)
    return round((time.process_time() - begin) / len(clips) * 1000, 2)
