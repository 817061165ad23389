"""The list of a dataset's classes, which settles their order: a name a line, `id name` lines, or JSON {name: id}."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..manifest import named
from .files import read_json, read_lines

_NUMBERED = re.compile(r"(\d+)[\s,]+(.+)")


@dataclass(frozen=True)
class ClassList:
    """by_id: names by the number that the dataset's files use, which need not begin at 0; names: in that order."""

    by_id: dict[int, str]

    @cached_property
    def names(self) -> list[str]:
        return list(self.by_id.values())

    def name_of(self, label: str) -> str:
        """The class of a number; any other label stays as it is."""
        return self.by_id.get(int(label), label) if label.isdecimal() else label


def read_classes(file: Path) -> ClassList:
    """Raises DataError where there is none, a name or number stands twice, or an id is none."""
    pairs = list(_pairs_of_json(file, read_json(file)) if file.suffix.lower() == ".json" else _pairs_of_text(file))
    if not pairs:
        raise DataError(f"{file}: names no classes. Give --labels the whole list of them")
    for column, noun in ((0, "id"), (1, "name")):
        counts = Counter(pair[column] for pair in pairs)
        if repeated := [value for value, count in counts.items() if count > 1]:
            raise DataError(f"{file}: {named(repeated, noun)} in the list of classes more than once. Keep one of each")
    return ClassList(dict(sorted(pairs)))


def _pairs_of_json(file: Path, content: dict[str, Any]) -> Iterable[tuple[int, str]]:
    for name, number in content.items():
        if not str(number).isdecimal():
            raise DataError(f"{file}: '{name}' has no whole number as its id. A list of classes is JSON {{name: id}}")
        yield int(number), name.strip('"')  # PySlowFast's names of Kinetics bear quotes of their own


def _pairs_of_text(file: Path) -> Iterable[tuple[int, str]]:
    lines = [line for _, line in read_lines(file) if line.replace(" ", "") not in ("id,name", "name")]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if all(numbered):
        return [(int(match[1]), match[2].strip('"')) for match in numbered if match]
    return enumerate(lines)
