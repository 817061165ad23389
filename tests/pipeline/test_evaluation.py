"""Evaluation: the same on any number of ranks, goes on where it was killed, confusion, comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet.backbones import create_model
from tubelet.datasets import ClipSettings, ShardedSplit
from tubelet.pipeline.cluster.distributed import World
from tubelet.pipeline.config import parse_views
from tubelet.pipeline.errors import ConfigError
from tubelet.pipeline.evaluation.comparing import compared, paired_interval
from tubelet.pipeline.evaluation.confusion import confusion, most_confused, neighbours_first
from tubelet.pipeline.evaluation.metrics import VideoScores, metrics_of
from tubelet.pipeline.evaluation.progress import Progress
from tubelet.pipeline.evaluation.results import Results, read_results, write_table
from tubelet.pipeline.evaluation.scoring import Scored, Scorer
from tubelet.pipeline.pictures.confusion import draw_confusion


@pytest.mark.parametrize(("text", "views"), [("4x3", (4, 3)), ("1x1", (1, 1)), ("10×3", (10, 3))])
def test_views(text: str, views: tuple[int, int]) -> None:
    assert parse_views(text) == views


@pytest.mark.parametrize("text", ["0x3", "4x2", "4x0", "x3", "4", "4x3x1", "-1x3", "four"])
def test_views_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="views are temporal x spatial, such as 4x3"):
        parse_views(text)


class Alone(World):
    """One rank of several, whose gathering gives what it has itself."""

    def gather(self, value: object) -> list:
        return [value]


def scorer_of(split: ShardedSplit, rank: int = 0, size: int = 1, clips_at_a_time: int = 6) -> Scorer:
    torch.manual_seed(0)
    model = create_model("c3d_tiny", num_classes=len(split.classes), frames=8, size=32)
    world = Alone(rank, size, size, torch.device("cpu"))
    return Scorer(model, split, ClipSettings(8, 1, 32), (2, 1), world, clips_at_a_time, 0, "fp32")


def same(one: Scored, other: Scored) -> bool:
    return one.unread == other.unread and all(
        np.array_equal(getattr(one.videos, name), getattr(other.videos, name))
        for name in ("index", "scores", "clip_hits")
    )


@pytest.fixture(scope="module")
def whole(dataset: Path) -> Scored:
    """16 videos, 3 a batch, by one rank."""
    return scorer_of(ShardedSplit(dataset, "train")).score()


def test_each_video_is_scored_once_and_alike_by_any_ranks(dataset: Path, whole: Scored) -> None:
    split = ShardedSplit(dataset, "train")
    assert whole.videos.index.tolist() == list(range(len(split)))
    parts = [scorer_of(split, rank, 4).score() for rank in range(4)]
    assert sum(len(part.videos.index) for part in parts) == len(split)
    assert same(Scored.joined(parts), whole)
    assert scorer_of(split).metrics(Scored.joined(parts)) == scorer_of(split).metrics(whole)


def test_logits_may_be_averaged_instead(dataset: Path) -> None:
    split = ShardedSplit(dataset, "val")
    soft, raw = scorer_of(split).score(), replace(scorer_of(split), average="logits").score()
    assert np.allclose(soft.videos.scores.sum(1), 1, atol=1e-5)
    assert not np.allclose(raw.videos.scores.sum(1), 1, atol=1e-2)


def test_what_is_done_is_not_done_again(dataset: Path, whole: Scored, tmp_path: Path) -> None:
    split, about = ShardedSplit(dataset, "train"), {"weights": "a"}

    def killed(progress: Progress, after: int):
        def keep(number: int, part: Scored) -> None:
            if not after - len(progress.done):
                raise KeyboardInterrupt
            progress.add(number, part)
            progress.done[number] = part

        return keep

    world = Alone(0, 1, 1, torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt), Progress(tmp_path / "r.json", about, world) as progress:
        scorer_of(split).score(keep=killed(progress, 2))
    (journal,) = progress.folder.glob("scores-*")
    with journal.open("ab") as file:
        file.write(b'[3, {"index": [1')  # a kill in the middle of a line

    again = Progress(tmp_path / "r.json", about, world)
    assert sorted(again.done) == [0, 1]
    scored: list[int] = []
    with again:
        went_on = scorer_of(split).score(again.done, lambda number, part: scored.append(number))
    assert scored == [2, 3, 4, 5]
    assert same(went_on, whole)
    assert not Progress(tmp_path / "r.json", {"weights": "b"}, world).done, "of other weights"
    again.finish()
    assert not list(tmp_path.iterdir())


ABOUT = {"split": "val", "multilabel": False, "classes": ["a", "b", "c"]}


def results(scores: np.ndarray, labels: np.ndarray, unread: dict[int, str] | None = None, **about: object) -> Results:
    read = [number for number in range(len(scores)) if number not in (unread or {})]
    targets = labels if labels.ndim == 2 else labels[:, None] == np.arange(3)
    return Results(
        {**ABOUT, **about},
        [f"video-{number}" for number in range(len(scores))],
        targets,
        np.where(np.isin(np.arange(len(scores)), read)[:, None], scores, np.nan).astype(np.float32),
        np.ones((len(scores), 2), np.int64),
        [(unread or {}).get(number) for number in range(len(scores))],
    )


@pytest.mark.parametrize("several", [False, True])
def test_results_are_read_as_written(several: bool, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random((4, 3))
    labels = scores > 0.5 if several else np.array([0, 1, 2, 1])
    made = results(scores, labels, {2: "cut short"}, multilabel=several)
    write_table(made, tmp_path / "r.parquet")
    found = read_results(tmp_path / "r.json")
    assert (found.about, found.keys, found.causes) == (made.about, made.keys, made.causes)
    for name in ("targets", "scores", "clip_hits", "right"):
        found_hits = getattr(found, name)[made.read]
        assert np.array_equal(found_hits, getattr(made, name)[made.read]), name
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert rows[2]["unread"] == "cut short"
    assert rows[2]["scores"] is rows[2]["predicted"] is rows[2]["right"] is None
    assert rows[0]["predicted"] == rows[0]["top5"][0] == ABOUT["classes"][scores[0].argmax()]


def test_metrics_can_be_had_from_the_results(tmp_path: Path) -> None:
    scores, labels = np.random.default_rng(0).random((9, 3)).astype(np.float32), np.arange(9) % 3
    made = results(scores, labels)
    videos = VideoScores(np.arange(9), made.scores, made.clip_hits, 1)
    assert metrics_of(videos, labels, 0).video_top1 == made.right.mean()


def test_two_runs_are_compared_video_by_video() -> None:
    labels = np.zeros(10, np.int64)
    here, there = (np.eye(3)[np.array(predicted)] for predicted in ([0] * 8 + [1] * 2, [0] * 5 + [1] * 4 + [0]))
    difference = compared(results(here, labels), results(there, labels), "other.json")
    assert (difference.better, difference.worse, difference.videos) == (3, 1, 10)
    assert difference.difference == pytest.approx(0.2)
    assert difference.low < 0.2 < difference.high
    assert "may be chance" in str(difference)
    # What one of them could not read is left out of both.
    assert compared(results(here, labels, {9: "gone"}), results(there, labels), "o").worse == 0


def test_other_videos_and_other_splits_are_not_compared() -> None:
    one = results(np.eye(3), np.arange(3))
    with pytest.raises(ConfigError, match=r"--against o: is of split train, not of val"):
        compared(one, results(np.eye(3), np.arange(3), split="train"), "o")
    with pytest.raises(ConfigError, match=r"--against o: is of other videos: 1 are in one of the two only.*'video-2'"):
        compared(one, results(np.eye(3)[:2], np.arange(2)), "o")


def test_the_paired_interval() -> None:
    # By hand: 20/102, and its deviation sqrt(41 - 400/102) / 102.
    difference, low, high = paired_interval(100, 30, 10)
    assert difference == pytest.approx(0.2)
    assert (low, high) == (pytest.approx(0.07907, abs=1e-5), pytest.approx(0.31308, abs=1e-5))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_the_paired_interval_is_fair(counts: tuple[int, int, int]) -> None:
    count, better, worse = counts
    worse = min(worse, count - better)
    difference, low, high = paired_interval(count, better, worse)
    assert -1 <= low <= high <= 1
    assert low - 1e-9 <= difference * count / (count + 2) <= high + 1e-9
    assert paired_interval(count, worse, better) == (-difference, -high, -low)


def test_average_precision_is_compared_over_resampled_videos() -> None:
    rng = np.random.default_rng(0)
    targets = rng.random((20, 3)) > 0.6
    good, bad = targets + 0.1 * rng.random((20, 3)), rng.random((20, 3))
    one, other = (results(scores, targets, multilabel=True) for scores in (good, bad))
    difference = compared(one, other, "o")
    assert difference.metric == "mean_ap"
    assert 0 < difference.low < difference.difference < difference.high
    assert compared(one, other, "o") == difference, "it is drawn by a fixed seed"


def test_what_is_taken_for_what() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 0, 1, 0])
    counts = confusion(labels, predicted, 3)
    assert counts.tolist() == [[1, 2, 0], [1, 1, 0], [1, 0, 0]]
    pairs = most_confused(counts, ["a", "b", "c"])
    assert [str(pair) for pair in pairs] == ["a for b (2 of 3)", "c for a (1 of 1)", "b for a (1 of 2)"]
    assert most_confused(np.diag([3, 0, 2]), ["a", "b", "c"]) == []


@given(st.integers(1, 30), st.integers(0, 100))
def test_classes_that_are_confused_lie_side_by_side(blocks: int, seed: int) -> None:
    counts = np.kron(np.eye(blocks, dtype=np.int64), np.array([[6, 4], [3, 7]]))
    mixed = np.random.default_rng(seed).permutation(2 * blocks)
    order = neighbours_first(counts[np.ix_(mixed, mixed)])
    assert sorted(order) == list(range(2 * blocks))
    if blocks == 2:  # of equal blocks every other order is as good
        assert {frozenset(mixed[order][i : i + 2] // 2) for i in (0, 2)} == {frozenset([0]), frozenset([1])}


@pytest.mark.parametrize("classes", [1, 4, 50])
def test_the_matrix_as_a_picture(classes: int, tmp_path: Path) -> None:
    from PIL import Image

    counts = np.diag(np.full(classes, 5)) + np.random.default_rng(0).integers(0, 2, (classes, classes))
    draw_confusion(counts, [f"class {number}" for number in range(classes)], tmp_path / "c.png")
    picture = Image.open(tmp_path / "c.png")
    assert np.asarray(picture.convert("L")).std() > 10
    assert picture.width >= 10 * classes


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"r\.json: cannot be written \(Not a directory\)\. Give --out a file that"):
        Progress(tmp_path / "file" / "r.json", {}, World(0, 1, 1, torch.device("cpu")))


def test_what_is_no_result_is_said(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match=r"r\.json: has no results of `tubelet evaluate` \(r\.parquet: "):
        read_results(tmp_path / "r.json")
