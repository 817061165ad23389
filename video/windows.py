"""Clips that slide over a video or are spread over it, with lengths in frames or in seconds: pure functions of the
times at which its frames are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .sampling import segment_views

_ROUNDING_S = 5e-4  # containers round to a whole millisecond


@dataclass(frozen=True)
class Windows:
    """Which clips of a video are taken, and which frames make each.

    frames: T of a clip. length, seconds: of the video that a clip covers, in frames or in seconds, its frames spread
    evenly over that; neither: one from each of T equal parts of the whole video (segments). every, every_seconds: from
    the start of a clip to that of the next, as long as whole clips fit; neither: `count` clips evenly spread.
    """

    frames: int
    length: int | None = None
    seconds: float | None = None
    every: int | None = None
    every_seconds: float | None = None
    count: int = 1

    def clips(self, times: np.ndarray) -> np.ndarray:
        """Frames (N, T) of the clips of a video, N >= 1, by the times (frames,) in seconds, ascending, of its frames.

        A video shorter than a clip has one, which repeats its last frame.
        """
        total = len(times)
        if self.length is None and self.seconds is None:
            return segment_views(total, self.frames, self.count)
        if self.seconds is None:
            assert self.length is not None
            offsets = np.arange(self.frames) * self.length // self.frames
            starts = self._starts(times, max(total - 1 - int(offsets[-1]), 0))
            return np.minimum(starts[:, None] + offsets, total - 1)
        ahead = self.seconds * np.arange(self.frames) / self.frames
        starts = self._starts(times, max(_shown_at(times, times[-1] - ahead[-1]), 0))
        return np.maximum(_shown_at(times, times[starts][:, None] + ahead), starts[:, None])

    def _starts(self, times: np.ndarray, latest: int) -> np.ndarray:
        """First frames of the clips, ascending, the last of them at most `latest`."""
        if self.every is not None:
            return np.arange(0, latest + 1, self.every)
        if self.every_seconds is not None:
            moments = times[0] + np.arange(0, times[latest] - times[0] + _ROUNDING_S, self.every_seconds)
            return np.unique(np.minimum(np.searchsorted(times, moments - _ROUNDING_S), latest))
        return latest * np.arange(self.count) // (self.count - 1) if self.count > 1 else np.array([latest // 2])


def _shown_at(times: np.ndarray, moments: np.ndarray | float) -> Any:
    """The frame that is on the screen at each moment; -1 before the first."""
    return np.searchsorted(times, np.asarray(moments) + _ROUNDING_S, "right") - 1
