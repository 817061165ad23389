"""Scores of videos as accuracies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.pipeline.evaluation.metrics import VideoScores, average_precisions, hits, metrics_of, ranked

SCORES = np.array([[[0.9, 0.1, 0.0], [0.4, 0.6, 0.0]], [[0.5, 0.4, 0.1], [0.5, 0.2, 0.3]]], np.float32)


def videos(scores: np.ndarray, targets: np.ndarray) -> VideoScores:
    clip_hits = hits(scores, targets[:, None].repeat(scores.shape[1], 1)).sum(1)
    return VideoScores(np.arange(len(scores)), scores.mean(1), clip_hits, scores.shape[1])


def test_a_video_is_scored_by_the_mean_of_its_clips() -> None:
    """Two videos of two clips: the first right in one clip only yet right on average, the second never."""
    labels = np.array([0, 1])
    metrics = metrics_of(videos(SCORES, labels[:, None] == np.arange(3)), labels, unread=1)
    assert (metrics.videos, metrics.clips, metrics.unread) == (2, 4, 1)
    assert (metrics.clip_top1, metrics.video_top1, metrics.mean_class) == (0.25, 0.5, 0.5)
    assert (metrics.clip_top5, metrics.video_top5) == (1.0, 1.0)
    assert metrics.mean_ap is None
    assert metrics.main == metrics.video_top1


def test_classes_count_alike_in_their_mean() -> None:
    scores = np.eye(2, dtype=np.float32)[[0, 0, 0, 0]][:, None]
    labels = np.array([0, 0, 0, 1])
    metrics = metrics_of(videos(scores, labels[:, None] == np.arange(2)), labels, 0)
    assert (metrics.video_top1, metrics.mean_class) == (0.75, 0.5)


def test_several_labels() -> None:
    targets = np.array([[True, True, False], [False, True, False]])
    metrics = metrics_of(videos(SCORES, targets), targets, 0)
    # Class 0: its video comes first. Class 1: both of its videos, whatever their order. Class 2 has none.
    assert metrics.mean_ap == 1.0
    assert metrics.main == 1.0


def test_the_precision_of_ties_and_of_misses() -> None:
    scores = np.array([[0.9], [0.8], [0.8], [0.1]])
    targets = np.array([[False], [True], [False], [True]])
    assert average_precisions(scores, targets)[0] == pytest.approx(0.5 * (1 / 3) + 0.5 * (2 / 4))
    assert np.isnan(average_precisions(scores, np.zeros((4, 1), bool))[0])


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_average_precision_is_the_mean_precision_at_each_hit(rows: list[tuple[int, bool]]) -> None:
    scores, targets = np.array([[float(s)] for s, _ in rows]), np.array([[t] for _, t in rows])
    found = average_precisions(scores, targets)[0]
    if not targets.any():
        assert np.isnan(found)
        return
    at = [(targets[scores >= score].sum(), (scores >= score).sum()) for score in scores[targets]]
    assert found == pytest.approx(np.mean([hit / count for hit, count in at]))


def test_parts_are_put_together_by_video() -> None:
    whole = videos(SCORES, np.eye(3, dtype=bool)[[0, 1]])
    one, other = (VideoScores(np.array([i]), whole.scores[[i]], whole.clip_hits[[i]], 2) for i in (0, 1))
    joined = VideoScores.joined([VideoScores.empty(3, 2), other, one])
    assert joined.index.tolist() == [0, 1]
    assert np.array_equal(joined.scores, whole.scores)


def test_equal_scores_are_ranked_by_class() -> None:
    assert ranked(np.array([0.5, 0.7, 0.5, 0.7]), 3).tolist() == [1, 3, 0]
