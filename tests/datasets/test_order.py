"""Each sample once an epoch, equal steps on all ranks, and the same whatever dies in between."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.datasets import Balance, DataError, Position, TrainOrder, epoch_order, rank_share

counts = st.integers(1, 300)
small = st.integers(1, 6)
powers = st.sampled_from([0.0, 0.3, 0.5, 1.0])
long_tails = st.lists(st.integers(1, 60), min_size=1, max_size=8)  # videos of each class


def balanced(sizes: list[int], power: float) -> tuple[np.ndarray, Balance]:
    """Labels of classes with those numbers of videos, mixed up, and their balance. Class numbers have gaps."""
    labels = np.random.default_rng(0).permutation(np.repeat(3 * np.arange(len(sizes)), sizes))
    return labels, Balance(labels, power)


def drawn(order: TrainOrder, start: Position, world: int) -> list[int]:
    """The videos that all ranks see together from `start` to the end of its epoch."""
    videos = []
    for rank in range(world):
        for draws in order.draws(start, rank):
            if draws[0].epoch != start.epoch:
                break
            videos += [draw.index for draw in draws]
    return videos


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


worlds = st.tuples(small, small, st.integers(1, 3))  # batch, ranks, accumulated batches


@given(st.integers(120, 300), st.lists(worlds, min_size=1, max_size=5), st.data())
def test_other_worlds_go_on_with_nothing_lost_and_nothing_twice(count: int, runs: list, data: st.DataObject) -> None:
    """A run is killed again and again, and goes on with other ranks, batches and accumulation each time."""
    position, seen = Position(2, 0), []
    for batch, world, accumulate in runs[:-1]:
        order = TrainOrder.fitting(count, 1, batch, world, accumulate)
        left = (count - position.consumed) // order.step_samples
        steps = data.draw(st.integers(0, max(0, left - 1)), "steps")
        micros = steps * accumulate
        seen += [d.index for rank in range(world) for b in islice(order.draws(position, rank), micros) for d in b]
        for _ in range(steps):
            position = order.after(position)
    assert position.consumed == len(seen)
    batch, world, accumulate = runs[-1]
    last = TrainOrder.fitting(count, 1, batch, world, accumulate)
    if count - position.consumed >= last.step_samples:
        seen += drawn(last, position, world)
    assert len(set(seen)) == len(seen)
    assert count - len(seen) < max(last.step_samples, 6 * 6 * 3)


@given(long_tails, powers, st.integers(0, 3))
def test_a_balanced_epoch_is_a_pure_function_and_as_long(sizes: list[int], power: float, epoch: int) -> None:
    labels, balance = balanced(sizes, power)
    order = epoch_order(len(labels), 5, epoch, balance)
    assert np.array_equal(order, epoch_order(len(labels), 5, epoch, Balance(labels, power)))
    assert len(order) == len(labels)
    came = np.bincount(labels[order], minlength=3 * len(sizes))[::3]
    exact = np.array(sizes) ** (1 - power)
    assert (abs(came - exact * len(labels) / exact.sum()) < 1).all()
    assert (came > 0).all()
    if power == 0:
        assert sorted(order) == list(range(len(labels)))


@given(long_tails, powers, st.integers(1, 6))
def test_the_videos_of_a_class_come_equally_often(sizes: list[int], power: float, epochs: int) -> None:
    labels, balance = balanced(sizes, power)
    orders = [epoch_order(len(labels), 5, epoch, balance) for epoch in range(epochs)]
    times = np.bincount(np.concatenate(orders), minlength=len(labels))
    for label in np.unique(labels):
        of_class = times[labels == label]
        assert of_class.max() - of_class.min() <= 1


@given(long_tails, powers, worlds, st.integers(0, 200))
def test_a_balanced_run_goes_on_where_it_was(sizes: list[int], power: float, world: tuple, consumed: int) -> None:
    labels, balance = balanced(sizes, power)
    batch, ranks, accumulate = world
    if len(labels) < ranks * accumulate:
        return
    order = TrainOrder.fitting(len(labels), 0, batch, ranks, accumulate, balance)
    steps = consumed % order.steps_per_epoch
    straight = sorted(drawn(order, Position(0, 0), ranks))
    micros = steps * accumulate
    before = [d.index for r in range(ranks) for b in islice(order.draws(Position(0, 0), r), micros) for d in b]
    assert sorted(before + drawn(order, Position(0, steps * order.step_samples), ranks)) == straight


@given(st.integers(0, 100), st.integers(1, 8))
def test_every_video_is_evaluated_on_one_rank(count: int, world: int) -> None:
    shares = [index for rank in range(world) for index in rank_share(count, world, rank)]
    assert sorted(shares) == list(range(count))


@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0.0, 0.5, 1.0, 3.0])), min_size=1, max_size=8), powers)
def test_factors_say_how_much_more_often_a_class_comes(classes: list[tuple[int, float]], power: float) -> None:
    sizes, factors = map(np.array, zip(*classes, strict=True))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if not factors.any():
        with pytest.raises(ValueError, match="no class is left"):
            Balance(labels, power, factors)
        return
    order = epoch_order(len(labels), 5, 1, Balance(labels, power, factors))
    came = np.bincount(labels[order], minlength=len(sizes))
    exact = sizes ** (1 - power) * factors
    assert (abs(came - exact * len(labels) / exact.sum()) < 1).all()
    assert not came[factors == 0].any()
