from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch

from tubelet.datasets import (
    ClipSettings,
    DataError,
    Position,
    ShardedSplit,
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


@pytest.fixture
def broken(dataset: Path, tmp_path: Path) -> ShardedSplit:
    """The split with the first video of its first shard overwritten by zeros."""
    shutil.copytree(dataset, tmp_path / "broken")
    split = ShardedSplit(tmp_path / "broken", "train")
    span = split.span(0)
    with span.path.open("r+b") as handle:
        handle.seek(span.offset)
        handle.write(bytes(span.size))
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
    with pytest.raises(DataError, match="10 videos in a row cannot be read"):
        batches(split, Position(0, 0), 1, 0)


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
