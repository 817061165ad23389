"""Which frames make a clip: pure functions from integers to indices, int64, counted from 0.

A video shorter than the clip's span: the clip starts at frame 0 and every index past the end repeats the last frame,
as PySlowFast does (`temporal_sampling` clamps its indices). Segments of a short video overlap instead, as in TSN.
"""

from __future__ import annotations

import numpy as np


def random_clip(total: int, frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """A dense clip, one frame in `stride`, at a random start, as SlowFast trains (Feichtenhofer et al. 2019).

    Returns (frames,). Errors: ValueError where a number is below 1.
    """
    _check(total=total, frames=frames, stride=stride)
    span = (frames - 1) * stride + 1
    start = int(rng.integers(0, max(total - span, 0) + 1))
    return np.minimum(start + stride * np.arange(frames, dtype=np.int64), total - 1)


def clip_views(total: int, frames: int, stride: int, views: int) -> np.ndarray:
    """Dense test clips, evenly spread from the first possible start to the last; a single one is the centre.

    The 10-clip testing of Non-local networks (Wang et al. 2018) and SlowFast (Feichtenhofer et al. 2019).
    Returns (views, frames). Errors: ValueError where a number is below 1.
    """
    _check(total=total, frames=frames, stride=stride, views=views)
    latest = max(total - (frames - 1) * stride - 1, 0)
    starts = latest * np.arange(views, dtype=np.int64) // (views - 1) if views > 1 else np.array([latest // 2])
    return np.minimum(starts[:, None] + stride * np.arange(frames, dtype=np.int64), total - 1)


def segment_clip(total: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """One frame from each of `frames` equal segments of the whole video (TSN, Wang et al. 2016, section 3.1).

    A random frame of each segment with `rng`, as in training; the middle one where it is None, as in testing.
    Returns (frames,), ascending. Errors: ValueError where a number is below 1.
    """
    _check(total=total, frames=frames)
    bounds = total * np.arange(frames + 1, dtype=np.int64) // frames
    # A segment of a video with fewer frames than segments may be empty: it takes the frame that it begins at.
    width = np.maximum(np.diff(bounds), 1)
    offset = width // 2 if rng is None else rng.integers(0, width)
    return bounds[:-1] + offset


def segment_views(total: int, frames: int, views: int) -> np.ndarray:
    """`views` clips of one frame a segment, evenly spread inside the segments; a single one takes the middle frames.

    The multi-clip testing of models trained on segments (TSN, Wang et al. 2016): the views share no frame where the
    video has `frames * views` or more. Returns (views, frames). Errors: ValueError where a number is below 1.
    """
    _check(total=total, frames=frames, views=views)
    bounds = total * np.arange(frames + 1, dtype=np.int64) // frames
    width = np.maximum(np.diff(bounds), 1)
    return bounds[:-1] + width * (2 * np.arange(views, dtype=np.int64)[:, None] + 1) // (2 * views)


def frames_between(times: np.ndarray, start: float, end: float) -> tuple[int, int]:
    """The frames first <= i < after that are shown from `start` up to, and without, `end`; first == after for none.

    times: (frames,) seconds, ascending. Half a millisecond is forgiven on both sides: containers round to a whole one.
    """
    first, after = np.searchsorted(times, [start - 5e-4, end - 5e-4])
    return int(first), max(int(first), int(after))


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be 1 or more, not {number}")
