"""Each sample once an epoch, equal steps on all ranks, and the same whatever dies in between."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.datasets import DataError, Position, TrainOrder, epoch_order, rank_share

counts = st.integers(1, 300)
small = st.integers(1, 6)


@given(counts, st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_is_a_permutation_and_a_pure_function(count: int, seed: int, epoch: int) -> None:
    order = epoch_order(count, seed, epoch)
    assert sorted(order) == list(range(count))
    assert np.array_equal(order, epoch_order(count, seed, epoch))


def test_epochs_and_seeds_differ() -> None:
    assert not np.array_equal(epoch_order(100, 0, 0), epoch_order(100, 0, 1))
    assert not np.array_equal(epoch_order(100, 0, 0), epoch_order(100, 1, 0))


@given(counts, small, small, small)
def test_ranks_take_equal_steps_and_disjoint_samples(count: int, batch: int, world: int, accumulate: int) -> None:
    if count < world * accumulate:
        with pytest.raises(DataError, match="too few"):
            TrainOrder.fitting(count, 0, batch, world, accumulate)
        return
    order = TrainOrder.fitting(count, 0, batch, world, accumulate)
    steps = order.steps_per_epoch
    assert steps >= 1
    per_rank = [list(islice(order.draws(Position(0, 0), rank), steps * accumulate)) for rank in range(world)]
    drawn = [draw for batches in per_rank for draws in batches for draw in draws]
    assert {draw.epoch for draw in drawn} == {0}
    assert all(len(draws) == order.batch for batches in per_rank for draws in batches)
    indices = [draw.index for draw in drawn]
    assert len(set(indices)) == len(indices) == steps * order.step_samples
    assert count - len(indices) < order.step_samples  # what sits an epoch out is less than a step


@given(st.integers(20, 300), small, small, st.integers(0, 40))
def test_a_run_that_goes_on_draws_what_it_would_have_drawn(count: int, batch: int, world: int, steps: int) -> None:
    order = TrainOrder.fitting(count, 3, batch, world, 1)
    position = Position(0, 0)
    for _ in range(steps):
        position = order.after(position)
    for rank in range(world):
        straight = list(islice(order.draws(Position(0, 0), rank), steps + 5))
        assert list(islice(order.draws(position, rank), 5)) == straight[steps:]


@given(st.integers(40, 300), small, small, small, small, st.integers(0, 100))
def test_another_world_goes_on_with_nothing_lost_and_nothing_twice(
    count: int, batch: int, world: int, new_batch: int, new_world: int, steps: int
) -> None:
    before = TrainOrder.fitting(count, 1, batch, world, 1)
    after = TrainOrder.fitting(count, 1, new_batch, new_world, 1)
    steps = steps % before.steps_per_epoch
    seen = [d.index for rank in range(world) for b in islice(before.draws(Position(0, 0), rank), steps) for d in b]
    position = Position(0, steps * before.step_samples)
    for rank in range(new_world):
        for draws in after.draws(position, rank):
            if draws[0].epoch != 0:
                break
            seen += [draw.index for draw in draws]
    assert len(set(seen)) == len(seen)
    assert count - len(seen) < max(after.step_samples, before.step_samples)


@given(st.integers(0, 100), st.integers(1, 8))
def test_every_video_is_evaluated_on_one_rank(count: int, world: int) -> None:
    shares = [index for rank in range(world) for index in rank_share(count, world, rank)]
    assert sorted(shares) == list(range(count))
