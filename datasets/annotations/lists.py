"""Lists with a line `path label` per video, one file per split: MMAction2, PySlowFast, PyTorchVideo and UCF101.

Separated by spaces, tabs or a comma; the label is the last field, so a path may hold spaces. Labels are numbers, as the
list of classes counts them, or from 0 where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..manifest import SPLITS, Manifest, Video, key_of, manifest_of
from .classes import ClassList
from .files import read_lines, root_of_paths

_LABELLED = re.compile(r"(.+?)\s*[\s,]\s*(-?\d+)")
_FILE_NAME = re.compile(r".*\.(?=\w*[A-Za-z])\w{2,5}")
_UCF101 = re.compile(r"(train|test)list(\d\d)")

_MOST_CLASSES = 100_000


def parse_line(line: str) -> tuple[str, int | None]:
    """'a b.mp4 3' -> ('a b.mp4', 3); None where no number follows the path, or -1, which stands for none."""
    match = _LABELLED.fullmatch(line)
    path, label = (match[1], int(match[2])) if match else (line, -1)
    return path.strip().strip('"'), label if label >= 0 else None


def is_list(lines: Sequence[str]) -> bool:
    """Whether these lines name files, and not classes."""
    return sum(_FILE_NAME.fullmatch(parse_line(line)[0]) is not None for line in lines) > len(lines) / 2


def split_in_name(file: Path) -> str | None:
    """The one split that a file's name speaks of, as in `kinetics_val_list.txt`. UCF101 has two parts only, and the
    field validates on its test list: that is `val`."""
    if match := _UCF101.fullmatch(file.stem):
        return "train" if match[1] == "train" else "val"
    found = [split for split in SPLITS if split in file.stem.lower()]
    return found[0] if len(found) == 1 else None


def read_lists(files: Sequence[Path], folder: Path | None, classes: ClassList | None) -> Manifest:
    """Raises DataError where a list's split is not known, or a label is missing that is not in the folder's name."""
    _check_lists(files, classes)
    videos = [video for file in files for video in _videos(file, root_of_paths(file, folder), classes)]
    if classes is None:
        highest = max((int(label) for video in videos for label in video.labels), default=-1)
        if highest >= _MOST_CLASSES:
            raise DataError(
                f"{files[0]}: the label {highest} is no number of a class. Lines are `path label`, from 0 up"
            )
        names = [str(number) for number in range(highest + 1)]
    else:
        names = classes.names
    return manifest_of(", ".join(map(str, files)), videos, names)


def _check_lists(files: Sequence[Path], classes: ClassList | None) -> None:
    unknown = [file for file in files if split_in_name(file) is None]
    if unknown and len(files) > 1:
        raise DataError(f"{unknown[0]}: the name says no split. Name each list so that it has train, val or test in it")
    numbers = sorted({match[2] for file in files if (match := _UCF101.fullmatch(file.stem))})
    if len(numbers) > 1:
        raise DataError(
            f"{files[0].parent}: lists of the splits {', '.join(numbers)}, which hold the same videos. Give --labels "
            "those of one: classInd.txt trainlist01.txt testlist01.txt"
        )
    if numbers and classes is None:
        raise DataError(f"{files[0]}: the list of classes is missing. Give --labels classInd.txt as well")


def _videos(file: Path, root: Path, classes: ClassList | None) -> list[Video]:
    split = split_in_name(file)
    # MMAction2's paths start in a folder of their split: kinetics400/videos_train, kinetics400/videos_val.
    own = sorted(folder for folder in root.iterdir() if folder.is_dir() and split and split_in_name(folder) == split)
    names = set(classes.names) if classes else set()
    videos = []
    for line, text in read_lines(file):
        path, label = parse_line(text)
        if label is not None:
            labels = [classes.name_of(str(label)) if classes else str(label)]
        elif (folder := Path(path).parent.name) in names:  # UCF101's test lists say no more than the folder
            labels = [folder]
        elif split == "test":
            labels = []
        else:
            raise DataError(f"{file}, line {line}: no label follows the path '{path}'. Add the number of its class")
        videos.append(Video(key_of(path), _located(path, [root, *own]), tuple(labels), split))
    return videos


def _located(path: str, roots: Sequence[Path]) -> Path:
    """The file below the first root that has it; below the first of all where none has."""
    return next((root / path for root in roots if (root / path).is_file()), roots[0] / path)
