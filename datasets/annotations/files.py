"""What the readers share: label files opened and parsed, with one message where they are something else, and where the
videos they speak of lie."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..errors import DataError


def needed_folder(folder: Path | None, files: Sequence[Path]) -> Path:
    """The folder of the videos, for label files that name no paths."""
    if folder is None:
        raise DataError(f"{files[0]}: does not say where the videos lie. Give their folder: --videos FOLDER")
    return folder


def root_of_paths(file: Path, folder: Path | None) -> Path:
    """Where the relative paths of a label file start: in the folder of the videos, else in its own."""
    root = file.parent if folder is None else folder
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Give --videos the folder that the paths of {file.name} start from")
    return root


@contextmanager
def open_text(file: Path) -> Iterator[TextIO]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            yield handle
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error}). Save it as such") from error


def read_lines(file: Path) -> list[tuple[int, str]]:
    """(number from 1, text) of each line that is not empty."""
    with open_text(file) as handle:
        return [(number, line.strip()) for number, line in enumerate(handle, start=1) if line.strip()]


def read_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, columns by name) of each row of a CSV with a header."""
    with open_text(file) as handle:
        rows = csv.DictReader(handle, skipinitialspace=True)
        rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
        try:
            yield from ((rows.line_num, row) for row in rows)
        except csv.Error as error:
            raise DataError(f"{file}, line {rows.line_num}: is no CSV ({error}). Mend the line") from error


def read_json(file: Path) -> Any:
    with open_text(file) as handle:
        try:
            return json.load(handle)
        except ValueError as error:
            raise DataError(f"{file}: is no whole JSON ({error}). Download it again") from error
