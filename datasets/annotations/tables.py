"""A CSV or Parquet file with named columns: path, label or labels, start, end, split.

`labels` holds several for each video, separated by | in a CSV, as a list in Parquet; start and end are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from ..manifest import SPLITS, Manifest, Video, key_of, manifest_of, split_named
from .classes import ClassList
from .files import read_lines, read_rows, root_of_paths

_COLUMNS = ("path", "label", "labels", "start", "end", "split")


def read_tables(files: Sequence[Path], folder: Path | None, classes: ClassList | None) -> Manifest:
    """Paths are relative to `folder`, else to the file's own folder. Without a list of classes they are ordered
    alphabetically, or by size where all are numbers. Only a `test` video may lack its label."""
    videos: list[Video] = []
    multilabel = False
    for file in files:
        root = root_of_paths(file, folder)
        for place, row in _rows(file):
            multilabel |= "labels" in row
            videos.append(_video(place, row, root))
    given = {label for video in videos for label in video.labels}
    if classes and not given <= set(classes.names):  # then they are its numbers, or wrong
        videos = [replace(video, labels=tuple(map(classes.name_of, video.labels))) for video in videos]
    names = classes.names if classes else in_order(given)
    return manifest_of(", ".join(map(str, files)), videos, names, multilabel)


def read_paths(file: Path) -> tuple[list[Video], bool]:
    """The videos of a list, with labels or without, and whether they may have several: a .txt with a path a line, or a
    table. Relative paths start from the file's own folder. Raises DataError for a list without videos."""
    rows: Iterator[tuple[str, dict[str, Any]]]
    if file.suffix.lower() == ".txt":
        rows = ((f"{file}, line {number}", {"path": path}) for number, path in read_lines(file))
    else:
        rows = _rows(file, labelled=False)
    listed = list(rows)
    if not listed:
        raise DataError(f"{file}: lists no videos. Add one line per video")
    videos = [_video(place, row, file.parent, labelled=False) for place, row in listed]
    return videos, any("labels" in row for _, row in listed)


def in_order(labels: set[str]) -> list[str]:
    """Alphabetical, or by size where all are whole numbers: 2 before 10."""
    alphabetical = sorted(labels)
    return sorted(alphabetical, key=int) if all(label.isdecimal() for label in labels) else alphabetical


def _rows(file: Path, labelled: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, columns by name) of each row."""
    if file.suffix.lower() == ".parquet":
        try:
            names = pq.read_schema(file).names
            _check_columns(file, names, labelled)
            table = pq.read_table(file, columns=[name for name in _COLUMNS if name in names], partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: is no whole Parquet file ({error}). Write it again") from error
        yield from ((f"{file}, row {number}", row) for number, row in enumerate(table.to_pylist()))
        return
    for index, (number, row) in enumerate(read_rows(file)):
        if index == 0:
            _check_columns(file, list(row), labelled)
        yield f"{file}, line {number}", row


def _check_columns(file: Path, columns: Sequence[str | None], labelled: bool) -> None:
    if "path" not in columns and not labelled:
        raise DataError(f"{file}: needs the column path; it has {', '.join(map(str, columns))}")
    if labelled and ("path" not in columns or ("label" in columns) == ("labels" in columns)):
        raise DataError(
            f"{file}: needs the columns path and either label or labels, and may have start, end and split; it has "
            f"{', '.join(map(str, columns))}"
        )


def _video(place: str, row: dict[str, Any], root: Path, labelled: bool = True) -> Video:
    path, split_text = _text(row["path"]), _text(row.get("split"))
    split = split_named(split_text)
    if split_text and split is None:
        raise DataError(f"{place}: split '{split_text}' is not one of {', '.join(SPLITS)}")
    labels = _labels(row)
    if not path and not labelled:
        raise DataError(f"{place}: has no path")
    if labelled and not (path and (labels or "labels" in row or split == "test")):
        raise DataError(f"{place}: a path and a label are needed; got path '{path}', label '{''.join(labels)}'")
    start, end = _seconds(place, row, "start"), _seconds(place, row, "end")
    if end is not None and end <= (start or 0.0):
        raise DataError(f"{place}: end {end:g} s is not after start {start or 0.0:g} s")
    key = key_of(path)
    if start is not None or end is not None:
        until = "" if end is None else round(1000 * end)
        key += f"_{round(1000 * (start or 0.0))}-{until}ms"
    return Video(key, root / path, labels, split, start, end)


def _labels(row: dict[str, Any]) -> tuple[str, ...]:
    if "label" in row:
        label = _text(row["label"])
        return (label,) if label else ()
    several = row.get("labels")
    texts = map(_text, several) if isinstance(several, list) else _text(several).split("|")
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _text(value: Any) -> str:
    """A cell as text: empty for none; pandas makes a column of whole numbers with gaps one of floats."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _seconds(place: str, row: dict[str, Any], column: str) -> float | None:
    text = _text(row.get(column))
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise DataError(f"{place}: {column} '{text}' is no number of seconds from 0 up")
    return seconds
