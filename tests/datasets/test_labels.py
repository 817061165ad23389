"""Class numbers from what indices say of their videos."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.datasets import DataError
from tubelet.datasets.shards.index import SCHEMA
from tubelet.datasets.shards.labels import classes_told, is_multilabel, label_array, label_lists

CLASSES = ["b", "a", "c"]
Row = tuple[list[int] | None, list[str] | None, str | None]
numbers, names = st.integers(0, 2), st.sampled_from(CLASSES)
rows = st.tuples(
    st.none() | st.lists(numbers, max_size=2, unique=True),
    st.none() | st.lists(names, max_size=2, unique=True),
    st.none() | names | st.just("a caption"),
)


def table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(("labels", "names", "text"), row, strict=True)) for row in rows], SCHEMA)


def by_hand(row: Row) -> list[int]:
    if row[0] is not None:
        return row[0]
    if row[1] is not None:
        return [CLASSES.index(name) for name in row[1]]
    return [CLASSES.index(row[2])] if row[2] in CLASSES else []


@settings(deadline=None)  # Arrow loads its functions at the first call
@given(st.lists(rows))
def test_numbers_come_before_names_and_names_before_texts(rows: list[Row]) -> None:
    assert label_lists(table(rows), CLASSES, "here").to_pylist() == [by_hand(row) for row in rows]


@given(st.lists(st.sets(st.integers(0, 4)), min_size=1))
def test_labels_as_arrays(labels: list[set[int]]) -> None:
    lists = pa.chunked_array([pa.array([sorted(some) for some in labels], pa.list_(pa.int32()))])
    hot = label_array(lists, 5)
    assert [set(np.flatnonzero(row)) for row in hot] == labels
    ones = [some for some in labels if len(some) < 2]
    lists = pa.chunked_array([pa.array([list(some) for some in ones], pa.list_(pa.int32()))])
    assert label_array(lists, None).tolist() == [next(iter(some), -1) for some in ones]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (([3], None, None), "here: class number 3 .* there are 3 classes"),
        ((None, ["d"], None), "here: 'd' is the label"),
    ],
)
def test_labels_that_are_no_classes(row: Row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        label_lists(table([([0], None, None), row]), CLASSES, "here")


@pytest.mark.parametrize(
    ("rows", "classes"),
    [
        ([([1], ["b"], None), ([0], ["a"], None), ([3], ["d"], None)], ["a", "b", "2", "d"]),
        ([([1], None, "b"), ([0], None, "a"), ([1], None, "b")], ["a", "b"]),
        ([([1], None, "a dog runs"), ([0], None, "a cat"), ([1], None, "the dog")], ["0", "1"]),
        ([([1], ["x"], None), ([0], ["x"], None)], ["0", "1"]),
        ([([0, 1], ["x", "y"], None), ([], [], None)], ["x", "y"]),
        ([(None, ["b", "a"], None), (None, ["b"], None)], ["a", "b"]),
        ([(None, None, "b"), (None, None, "a"), (None, None, "a"), (None, None, "b")], ["a", "b"]),
        ([(None, None, "a dog"), (None, None, "a cat"), (None, None, "a dog")], []),
        ([(None, None, None), ([], None, None)], []),
        ([], []),
    ],
)
def test_the_classes_that_shards_tell(rows: list[Row], classes: list[str]) -> None:
    half = len(rows) // 2
    assert classes_told([table(rows[:half]), table(rows[half:])])[0] == classes


def test_numbers_that_are_no_classes() -> None:
    with pytest.raises(DataError, match="class number 2000000000"):
        classes_told([table([([2_000_000_000], None, None)])])


def test_several_labels() -> None:
    assert not is_multilabel([table([([1], ["a"], None), ([], None, None)]), table([])])
    assert is_multilabel([table([([1], None, None)]), table([(None, ["a", "b"], None)])])
