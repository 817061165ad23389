"""Class numbers of videos from what their indices say: numbers, names, or text that turns out to be names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError

_MOST_CLASSES = 1_000_000


def label_lists(table: pa.Table, classes: Sequence[str], where: object) -> pa.ChunkedArray:
    """The class numbers of each video in the table of an index, list<int32> without nulls.

    A video's are its labels; else the numbers of its names; else that of its text, where that is a class. Raises
    DataError, which begins with `where`, for a number or a name that is not of `classes`.
    """
    lists = table["labels"]
    if lists.null_count:
        known = pa.array(classes, pa.string())
        names = pc.list_flatten(table["names"])
        numbers = pc.index_in(names, known)
        if numbers.null_count:
            unknown = names.filter(numbers.is_null())[0]
            raise DataError(f"{where}: '{unknown}' is the label of a video, and is none of the {len(classes)} classes")
        by_name = _lists(numbers, pc.list_value_length(table["names"]))
        of_text = pc.index_in(table["text"], known)
        by_text = _lists(of_text.drop_null(), of_text.is_valid().cast(pa.int32()))
        lists = pc.coalesce(lists, by_name, by_text)
    highest = pc.max(pc.list_flatten(lists)).as_py()
    if highest is not None and highest >= len(classes):
        raise DataError(
            f"{where}: class number {highest} is the label of a video, and there are {len(classes)} classes"
        )
    return lists


def _lists(numbers: pa.ChunkedArray, lengths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of those lengths, null where the length is."""
    filled = lengths.fill_null(0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(filled)]), pa.int32())
    values = pa.array(numbers.to_numpy(), pa.int32())
    mask = pa.array(lengths.is_null().to_numpy(), pa.bool_()) if lengths.null_count else None
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, values, mask=mask)])


def label_array(lists: pa.ChunkedArray, classes: int | None) -> np.ndarray:
    """Class numbers as lists -> (videos,) int64 of at most one each, or with `classes` (videos, classes) bool."""
    counts = pc.list_value_length(lists).to_numpy()
    videos, numbers = np.repeat(np.arange(len(counts)), counts), pc.list_flatten(lists).to_numpy()
    if classes is None:
        labels = np.full(len(counts), -1, np.int64)
        labels[videos] = numbers
        return labels
    hot = np.zeros((len(counts), classes), bool)
    hot[videos, numbers] = True
    return hot


def is_multilabel(tables: Sequence[pa.Table]) -> bool:
    """Whether any video has more than one label."""
    columns = [table[name] for table in tables for name in ("labels", "names")]
    return any((pc.max(pc.list_value_length(column)).as_py() or 0) > 1 for column in columns)


def classes_told(tables: Sequence[pa.Table]) -> tuple[list[str], str]:
    """The names of the classes in their order, as far as shards tell, and in words what they were taken from."""
    table = pa.concat_tables([table.select(["labels", "names", "text"]) for table in tables])
    highest = pc.max(pc.list_flatten(table["labels"])).as_py()
    if highest is not None:
        if highest >= _MOST_CLASSES:
            raise DataError(f"class number {highest} is the label of a video: these are hardly numbers of classes")
        named = _names_of_numbers(table)
        return [named.get(n, str(n)) for n in range(highest + 1)], "names beside numbers" if named else "class numbers"
    if names := _distinct(pc.list_flatten(table["names"])):
        return names, "names of classes"
    texts = _distinct(table["text"])
    if not texts:
        return [], "no labels"
    if 2 * len(texts) <= table.num_rows:  # names recur, and captions hardly do
        return texts, "the texts of .txt"
    return [], f"no labels: the {len(texts)} texts of .txt hardly recur, so they are captions"


def _distinct(texts: pa.ChunkedArray) -> list[str]:
    return sorted(pc.unique(texts.drop_null()).to_pylist())


def _names_of_numbers(table: pa.Table) -> dict[int, str]:
    """Name by number, from videos that have both; empty unless each number always has the same one, of its own."""
    alike = pc.equal(pc.list_value_length(table["labels"]), pc.list_value_length(table["names"])).fill_null(False)
    both = table.filter(alike)
    numbers, names = pc.list_flatten(both["labels"]), pc.list_flatten(both["names"])
    if not len(numbers):
        single = table.filter(pc.equal(pc.list_value_length(table["labels"]), 1).fill_null(False))
        single = single.filter(single["text"].is_valid())
        numbers, names = pc.list_flatten(single["labels"]), single["text"]
    pairs = pa.table({"number": numbers, "name": names}).group_by(["number", "name"]).aggregate([])
    found = dict(zip(pairs["number"].to_pylist(), pairs["name"].to_pylist(), strict=True))
    return found if len(found) == pairs.num_rows == len(set(found.values())) else {}
