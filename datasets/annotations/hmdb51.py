"""HMDB51 (Kuehne et al. 2011) by its `<class>_test_split<n>.txt`: `<file> 1` trains, `<file> 2` tests, 0 is unused.

There are no more than two parts, and the field validates on the second: it becomes `val`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..manifest import Manifest, Video, key_of, manifest_of
from .classes import ClassList
from .files import needed_folder, read_lines

SPLIT_FILE = re.compile(r"(.+)_test_split(\d)\.txt")
_PARTS = {"0": None, "1": "train", "2": "val"}


def read_hmdb51(files: Sequence[Path], folder: Path | None, classes: ClassList | None) -> Manifest:
    folder = needed_folder(folder, files)
    named = [(file, match[1], match[2]) for file in files if (match := SPLIT_FILE.fullmatch(file.name))]
    numbers = sorted({number for _, _, number in named})
    if len(numbers) > 1:
        raise DataError(
            f"{files[0].parent}: files of the splits {', '.join(numbers)}, which hold the same videos. Give --labels "
            f"those of one, such as {files[0].parent}/*_test_split1.txt"
        )
    videos = [video for file, label, _ in named for video in _videos(file, label, folder)]
    names = classes.names if classes else sorted({label for _, label, _ in named})
    return manifest_of(f"{files[0].parent}/*_test_split{numbers[0]}.txt", videos, names)


def _videos(file: Path, label: str, folder: Path) -> list[Video]:
    videos = []
    for line, text in read_lines(file):
        name, _, part = text.rpartition(" ")
        if part not in _PARTS or not name:
            raise DataError(f"{file}, line {line}: is not a file name and 0, 1 or 2: '{text}'. Mend the line")
        if split := _PARTS[part]:
            below = Path(label, name.strip())
            path = folder / below.name if (folder / below.name).is_file() else folder / below
            videos.append(Video(key_of(below), path, (label,), split))
    return videos
