"""Two evaluations of the same videos, compared video by video."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError
from .metrics import weighted_average_precisions
from .results import Results

_NORMAL = 1.959964  # the 97.5 % quantile
_RESAMPLES, _AT_ONCE = 1000, 50


@dataclass(frozen=True)
class Difference:
    """By how much `metric`, a share, is higher here than there, and its 95 % confidence interval. videos: that both
    have read; better, worse: of one label, how many only this one has right, and only the other."""

    against: str
    metric: str
    videos: int
    difference: float
    low: float
    high: float
    better: int | None = None
    worse: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        name = {"video_top1": "top-1", "mean_ap": "mAP"}[self.metric]
        low, high = 100 * self.low, 100 * self.high
        sure = "" if low > 0 or high < 0 else ", which may be chance"
        counts = "" if self.better is None else f"; right only here {self.better}, only there {self.worse}"
        return (
            f"against {self.against}: {name} {100 * self.difference:+.2f} points, 95 % interval {low:+.2f} to "
            f"{high:+.2f}{sure} ({self.videos} videos{counts})"
        )


def compared(this: Results, other: Results, against: str) -> Difference:
    """Raises ConfigError where they are not of the same videos."""
    check_comparable(this.about["split"], this.keys, other, against)
    place = {key: row for row, key in enumerate(other.keys)}
    there = np.array([place[key] for key in this.keys], np.int64)
    both = this.read & other.read[there]
    if not both.any():
        raise ConfigError(f"--against {against}: no video could be read in both")
    rows, theirs = np.flatnonzero(both), there[both]
    if this.about["multilabel"]:
        difference = _mean_ap(this.scores[rows], other.scores[theirs], this.targets[rows])
        return Difference(against, "mean_ap", len(rows), *difference)
    ours, right = this.right[rows], other.right[theirs]
    better, worse = int((ours & ~right).sum()), int((~ours & right).sum())
    return Difference(against, "video_top1", len(rows), *paired_interval(len(rows), better, worse), better, worse)


def check_comparable(split: str, keys: list[str], other: Results, against: str) -> None:
    """Raises ConfigError for results of another split, or of other videos."""
    if other.about["split"] != split:
        raise ConfigError(
            f"--against {against}: is of split {other.about['split']}, not of {split}. Name results of that one"
        )
    if missing := set(keys) ^ set(other.keys):
        raise ConfigError(
            f"--against {against}: is of other videos: {len(missing)} are in one of the two only, such as "
            f"'{min(missing)}'. Evaluate both on the same data"
        )


def paired_interval(count: int, better: int, worse: int) -> tuple[float, float, float]:
    """The difference of two shares of the same `count` videos, of which one has `better` right that the other has not,
    and `worse` the other way round, and its 95 % confidence interval: Wald's after half a video more in each of the
    four cells (Agresti & Min 2005, "Simple improved confidence intervals for comparing matched proportions")."""
    middle = (better - worse) / (count + 2)
    half = _NORMAL * math.sqrt(better + worse + 1 - (better - worse) * middle) / (count + 2)
    return (better - worse) / count, max(middle - half, -1.0), min(middle + half, 1.0)


def _mean_ap(ours: np.ndarray, theirs: np.ndarray, targets: np.ndarray) -> tuple[float, float, float]:
    """The difference of the mean average precision and its percentile interval over resampled videos (Efron &
    Tibshirani 1993, "An introduction to the bootstrap", ch. 13)."""
    rng, count = np.random.default_rng(0), len(targets)

    def differences(weights: np.ndarray) -> np.ndarray:
        weights = weights[(weights @ targets).any(1)]  # without a label there is no precision
        here, there = (weighted_average_precisions(scores, targets, weights) for scores in (ours, theirs))
        return np.nanmean(here, 1) - np.nanmean(there, 1)

    resamples = (rng.multinomial(count, np.full(count, 1 / count), _AT_ONCE) for _ in range(_RESAMPLES // _AT_ONCE))
    low, high = np.percentile(np.concatenate([differences(weights) for weights in resamples]), (2.5, 97.5))
    return float(differences(np.ones((1, count)))[0]), float(low), float(high)
