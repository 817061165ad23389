from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from tubelet.datasets import (
    QUARANTINED,
    Balance,
    ClipSettings,
    DataError,
    Position,
    ShardedSplit,
    TrainBatch,
    TrainOrder,
    train_batches,
    view_batches,
)

SETTINGS = ClipSettings(frames=4, stride=2, size=32)


@pytest.fixture(scope="module")
def split(dataset: Path) -> ShardedSplit:
    return ShardedSplit(dataset, "train")


def batches(split: ShardedSplit, start: Position, count: int, workers: int, rank: int = 0, world: int = 1) -> list:
    order = TrainOrder.fitting(len(split), 0, 4 // world, world, 1)
    return list(islice(train_batches(split, SETTINGS, order, start, rank, workers), count))


def test_batches_are_uint8_clips_with_their_labels(split: ShardedSplit) -> None:
    batch = batches(split, Position(0, 0), 1, 0)[0]
    assert batch.clips.shape == (4, 4, 32, 32, 3)
    assert batch.clips.dtype == torch.uint8
    assert batch.labels.shape == (4,)
    assert batch.clips.float().std() > 5  # pictures, not a blank


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(split: ShardedSplit, workers: int) -> None:
    for ours, theirs in zip(
        batches(split, Position(0, 0), 6, 0), batches(split, Position(0, 0), 6, workers), strict=True
    ):
        assert torch.equal(ours.clips, theirs.clips)
        assert torch.equal(ours.labels, theirs.labels)


def test_two_ranks_see_together_what_one_sees(split: ShardedSplit) -> None:
    alone = batches(split, Position(0, 0), 4, 0)
    halves = [batches(split, Position(0, 0), 4, 0, rank, 2) for rank in range(2)]
    for whole, first, second in zip(alone, *halves, strict=True):
        assert torch.equal(whole.clips, torch.cat([first.clips, second.clips]))


def test_a_run_goes_on_in_the_middle_of_an_epoch(split: ShardedSplit) -> None:
    straight = batches(split, Position(0, 0), 5, 0)
    for ours, theirs in zip(batches(split, Position(0, 8), 3, 1), straight[2:], strict=True):
        assert torch.equal(ours.clips, theirs.clips)


def test_epochs_see_other_clips_of_the_same_videos(split: ShardedSplit) -> None:
    first, second = (batches(split, Position(epoch, 0), 1, 0)[0] for epoch in (0, 1))
    assert not torch.equal(first.clips, second.clips)


def overwrite(split: ShardedSplit, videos: list[int]) -> None:
    """Makes some videos of a dataset nothing but zeros."""
    for span in map(split.span, videos):
        with span.path.open("r+b") as handle:
            handle.seek(span.offset)
            handle.write(bytes(span.size))


@pytest.fixture
def broken(dataset: Path, tmp_path: Path) -> ShardedSplit:
    """The split with the first video of its first shard overwritten by zeros."""
    shutil.copytree(dataset, tmp_path / "broken")
    split = ShardedSplit(tmp_path / "broken", "train")
    overwrite(split, [0])
    return split


def test_a_bad_video_is_replaced_by_the_same_one_each_time(broken: ShardedSplit) -> None:
    runs = [batches(broken, Position(0, 0), 4, workers) for workers in (0, 2)]
    faults = [fault for batch in runs[0] for fault in batch.faults]
    assert [key for key, _ in faults] == [broken.key(0)]
    assert faults[0][1]
    for ours, theirs in zip(*runs, strict=True):
        assert torch.equal(ours.clips, theirs.clips)
        assert ours.faults == theirs.faults


def test_a_dataset_of_bad_videos_only_ends_with_a_word(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "zeros")
    split = ShardedSplit(tmp_path / "zeros", "train")
    for shard in (tmp_path / "zeros").glob("*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    for policy in ("replace", "skip"):
        stream = train_batches(split, SETTINGS, TrainOrder(len(split), 0, 4, 1, 1), Position(0, 0), 0, 0, policy)
        with pytest.raises(DataError, match="10 videos in a row cannot be read"):
            next(stream)


@pytest.fixture
def damaged(dataset: Path, tmp_path: Path) -> Callable[[list[int]], ShardedSplit]:
    """Makes the split with some of its videos, by number, overwritten by zeros."""

    def make(videos: list[int]) -> ShardedSplit:
        shutil.copytree(dataset, tmp_path / "damaged")
        split = ShardedSplit(tmp_path / "damaged", "train")
        overwrite(split, videos)
        return split

    return make


def test_what_stops_and_what_is_left_out(damaged: Callable, split: ShardedSplit) -> None:
    order = TrainOrder(len(split), 0, 4, 1, 1)
    first = [draw.index for draw in next(order.draws(Position(0, 0), 0))]
    broken = damaged(first[1:])  # all of the first batch but its first
    whole = next(train_batches(split, SETTINGS, order, Position(0, 0), 0, 0))
    for workers in (0, 2):
        stream = train_batches(broken, SETTINGS, order, Position(0, 0), 0, workers, "skip")
        batch = next(stream)
        assert torch.equal(batch.clips, whole.clips[:1])
        assert batch.labels.tolist() == whole.labels[:1].tolist()
        assert [key for key, _ in batch.faults] == [split.key(index) for index in first[1:]]
        assert len(next(stream).clips) == 4
        stream.close()
    with pytest.raises(DataError, match=f"{split.key(first[1])}: .* --bad-samples"):
        next(train_batches(broken, SETTINGS, order, Position(0, 0), 0, 0, "stop"))


def test_no_batch_is_left_empty(damaged: Callable, split: ShardedSplit) -> None:
    order = TrainOrder(len(split), 0, 2, 1, 1)
    first = [draw.index for draw in next(order.draws(Position(0, 0), 0))]
    broken = damaged(first)
    skipping = next(train_batches(broken, SETTINGS, order, Position(0, 0), 0, 0, "skip"))
    replacing = next(train_batches(broken, SETTINGS, order, Position(0, 0), 0, 0, "replace"))
    assert len(skipping.clips) == 1
    assert torch.equal(skipping.clips, replacing.clips[:1])


@pytest.mark.parametrize("policy", ["replace", "skip"])
def test_a_quarantined_video_counts_as_one_that_failed(damaged: Callable, split: ShardedSplit, policy: str) -> None:
    """The same batches as of a run that tries it anew, in the epochs for which it is barred."""
    order = TrainOrder(len(split), 0, 5, 1, 1)
    videos = [0, 3, 9]
    broken = damaged(videos)
    trying = train_batches(broken, SETTINGS, order, Position(0, 0), 0, 0, policy)
    expected = list(islice(trying, 3 * order.steps_per_epoch))
    for workers in (0, 2):
        barred = train_batches(split, SETTINGS, order, Position(1, 0), 0, workers, policy)  # here they can be read
        assert barred.bar({split.key(video): 1 for video in videos} | {"of another dataset": 0}) == len(videos)
        for ours, theirs in zip(islice(barred, 2 * order.steps_per_epoch), expected[3:], strict=True):
            assert torch.equal(ours.clips, theirs.clips)
            assert torch.equal(ours.labels, theirs.labels)
            assert [key for key, _ in ours.faults] == [key for key, _ in theirs.faults]
            assert {cause for _, cause in ours.faults} <= {QUARANTINED}
        barred.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_learnt_of_an_epoch_holds_from_the_second_after_it(split: ShardedSplit, workers: int) -> None:
    """However far the workers read ahead: epochs here are of one batch each."""
    order = TrainOrder(len(split), 0, len(split), 1, 1)
    stream = train_batches(split, replace(SETTINGS, size=8), order, Position(0, 0), 0, workers)
    faults = []
    for epoch in range(6):
        faults.append({key for key, _ in next(stream).faults})
        stream.bar({split.key(epoch): epoch + 2})
    for epoch, met in enumerate(faults):
        assert {split.key(video) for video in range(epoch - 1)} <= met
        assert not met & {split.key(video) for video in range(max(0, epoch - 1), len(split))}
    stream.close()


def test_several_crops_of_one_decode_lie_side_by_side(split: ShardedSplit) -> None:
    order = TrainOrder(len(split), 0, 2, 1, 1)
    settings = replace(SETTINGS, repeats=3)
    for workers in (0, 1):
        stream = train_batches(split, settings, order, Position(0, 0), 0, workers)
        batch: TrainBatch = next(stream)
        stream.close()
        single = next(train_batches(split, SETTINGS, order, Position(0, 0), 0, 0))
        assert batch.clips.shape == (6, 4, 32, 32, 3)
        assert batch.labels.tolist() == single.labels.repeat_interleave(3).tolist()
        assert torch.equal(batch.clips[::3], single.clips)  # the first crop is the one there would be
        assert not torch.equal(batch.clips[0], batch.clips[1])


def test_crops_at_a_random_scale(split: ShardedSplit) -> None:
    order = TrainOrder(len(split), 0, 4, 1, 1)
    jitter = replace(SETTINGS, crop="jitter")
    batch = next(train_batches(split, jitter, order, Position(0, 0), 0, 0))
    assert batch.clips.shape == (4, 4, 32, 32, 3)
    assert not torch.equal(batch.clips, next(train_batches(split, SETTINGS, order, Position(0, 0), 0, 0)).clips)


def test_balanced_batches_have_the_labels_of_their_videos(split: ShardedSplit) -> None:
    order = TrainOrder(len(split), 0, 4, 1, 1, Balance(split.labels, 1.0))
    draws = next(order.draws(Position(0, 0), 0))
    batch = next(train_batches(split, SETTINGS, order, Position(0, 0), 0, 0))
    assert batch.labels.tolist() == split.labels[[draw.index for draw in draws]].tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("views", [(1, 1), (2, 3)])
def test_views_of_every_video_once(split: ShardedSplit, views: tuple[int, int], workers: int) -> None:
    seen = []
    for batch in view_batches(split, SETTINGS, views, range(len(split)), 3, workers):
        count = views[0] * views[1]
        assert batch.clips.shape[1:] == (count, 4, 32, 32, 3)
        assert batch.seconds.shape == (len(batch.indices), count, 2)
        assert (batch.seconds[..., 1] > batch.seconds[..., 0]).all()
        assert torch.equal(batch.labels, torch.from_numpy(split.labels[batch.indices.numpy()]))
        seen += batch.indices.tolist()
    assert seen == list(range(len(split)))


def test_the_spatial_views_of_a_clip_lie_side_by_side(split: ShardedSplit) -> None:
    """View v is clip v // spatial, crop v % spatial: the middle crop of three is the one of one."""
    several = next(view_batches(split, SETTINGS, (2, 3), [0], 1, 0))
    single = next(view_batches(split, SETTINGS, (2, 1), [0], 1, 0))
    assert torch.equal(several.clips[0, [1, 4]], single.clips[0])
    assert torch.equal(several.seconds[0, [1, 4]], single.seconds[0])


def test_an_unreadable_video_is_named_and_not_scored(broken: ShardedSplit) -> None:
    got = list(view_batches(broken, SETTINGS, (1, 1), [0, 1], 2, 0))
    assert got[0].indices.tolist() == [1]
    assert [(index, key) for index, key, _ in got[0].faults] == [(0, broken.key(0))]
