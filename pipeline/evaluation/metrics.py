"""Accuracies from the scores of videos: pure functions, in a fixed order, so that no number of ranks changes them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

TOP = 5


@dataclass(frozen=True)
class VideoScores:
    """Of n videos: index (n,) int64 in the split; scores (n, classes) float32, the mean of a video's clips; clip_hits
    (n, 2) int64, how many of its clips have a right label first, and among the first `TOP`; clips of a video."""

    index: np.ndarray
    scores: np.ndarray
    clip_hits: np.ndarray
    clips: int

    @classmethod
    def empty(cls, classes: int, clips: int) -> VideoScores:
        zero = np.zeros(0, np.int64)
        return cls(zero, np.zeros((0, classes), np.float32), np.zeros((0, 2), np.int64), clips)

    @classmethod
    def joined(cls, parts: list[VideoScores]) -> VideoScores:
        """All of them by index, whoever scored which."""
        index = np.concatenate([part.index for part in parts])
        order = np.argsort(index, kind="stable")
        scores, hits = (np.concatenate([getattr(p, name) for p in parts])[order] for name in ("scores", "clip_hits"))
        return cls(index[order], scores, hits, parts[0].clips)


@dataclass(frozen=True)
class Metrics:
    """Accuracies as shares from 0 to 1. videos, clips: scored; unread: videos that could not be read, not counted.

    The score of a video is the mean of its clips'; top-k counts a hit among the k highest of it, k = 5 or the number of
    classes where there are fewer. mean_class: the mean over classes of their videos' top-1. mean_ap: of videos with
    several labels, the mean over classes of their average precision; top-k then counts any of the labels.
    """

    videos: int
    clips: int
    unread: int
    clip_top1: float
    clip_top5: float
    video_top1: float
    video_top5: float
    mean_class: float
    mean_ap: float | None = None

    @property
    def main(self) -> float:
        """What the best checkpoint is chosen by."""
        return self.video_top1 if self.mean_ap is None else self.mean_ap

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "main": self.main}

    def __str__(self) -> str:
        each = self.clips // max(self.videos, 1)
        unread = f"; {self.unread} videos could not be read and are not counted" if self.unread else ""
        mean_ap = "" if self.mean_ap is None else f"mAP {self.mean_ap:.2%}; "
        return (
            f"{mean_ap}per video top-1 {self.video_top1:.2%}, top-5 {self.video_top5:.2%}, mean over classes "
            f"{self.mean_class:.2%}; per clip top-1 {self.clip_top1:.2%}, top-5 {self.clip_top5:.2%} "
            f"({self.videos} videos, {each} view{'s' if each != 1 else ''} each{unread})"
        )


def as_targets(labels: np.ndarray, classes: int) -> np.ndarray:
    """(n, classes) bool of labels (n,) int64 or (n, classes) bool."""
    return labels if labels.ndim == 2 else labels[:, None] == np.arange(classes)


def ranked(scores: np.ndarray, top: int) -> np.ndarray:
    """The `top` classes with the highest scores (..., top), the lower class first where they are equal."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :top]


def hits(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(..., 2) bool: whether a right class is the first, and among the first `TOP`. targets: (..., classes) bool."""
    right = np.take_along_axis(targets, ranked(scores, TOP), -1)
    return np.stack([right[..., 0], right.any(-1)], -1)


def metrics_of(videos: VideoScores, labels: np.ndarray, unread: int) -> Metrics:
    """labels: of these videos, (n,) int64 or (n, classes) bool."""
    count, classes = videos.scores.shape
    targets = as_targets(labels, classes)
    right = hits(videos.scores, targets)
    clips = count * videos.clips
    clip_top1, clip_top5 = (videos.clip_hits.sum(0) / clips).tolist()
    video_top1, video_top5 = right.mean(0).tolist()
    per_class = targets.sum(0)
    found = (targets & right[:, :1]).sum(0)
    mean_class = float((found[per_class > 0] / per_class[per_class > 0]).mean())
    several = labels.ndim == 2
    mean_ap = float(np.nanmean(average_precisions(videos.scores, targets))) if several else None
    return Metrics(count, clips, unread, clip_top1, clip_top5, video_top1, video_top5, mean_class, mean_ap)


def average_precisions(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of each class (classes,), NaN for one without videos: the mean, over its videos, of the
    precision among all that score at least as high, without interpolation."""
    return weighted_average_precisions(scores, targets, np.ones((1, len(scores))))[0]


def weighted_average_precisions(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(draws, classes) the same where video i counts `weights[draw, i]` times, for weights (draws, n)."""
    result = np.full((len(weights), scores.shape[1]), np.nan)
    for number in np.flatnonzero(targets.any(0)):
        order = np.argsort(-scores[:, number], kind="stable")
        score, drawn = scores[order, number], weights[:, order]
        # Videos with equal scores come in together.
        last = np.flatnonzero(np.append(score[1:] != score[:-1], True))
        found, seen = np.cumsum(drawn * targets[order, number], 1)[:, last], np.cumsum(drawn, 1)[:, last]
        hits = np.diff(found, axis=1, prepend=0.0)
        with np.errstate(invalid="ignore"):  # a class whose videos are not among those drawn
            result[:, number] = (hits * found / np.maximum(seen, 1)).sum(1) / found[:, -1]
    return result
