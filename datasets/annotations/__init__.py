"""Label files as the datasets of the field publish them, recognised by name and content, read as a manifest.

Each reader takes (files, folder of the videos or None, list of classes or None). A list of classes may lie beside any
of them and settles their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from ..errors import DataError
from ..manifest import Manifest
from .classes import read_classes
from .files import open_text
from .hmdb51 import SPLIT_FILE as HMDB51_FILE
from .hmdb51 import read_hmdb51
from .kinetics import read_kinetics
from .lists import is_list, read_lists
from .ssv2 import read_ssv2
from .tables import read_tables

_READERS = {
    "hmdb51": read_hmdb51,
    "kinetics": read_kinetics,
    "list": read_lists,
    "ssv2": read_ssv2,
    "table": read_tables,
}
_SNIFFED_LINES = 50

__all__ = ["read_annotations"]


def read_annotations(files: Sequence[Path], folder: Path | None) -> Manifest:
    """What the label files list; `folder` is where the videos lie (default: where their paths start from).

    Raises DataError for a file that is missing, in no known format, or wrong in itself.
    """
    by_kind: dict[str, list[Path]] = {}
    for file in files:
        by_kind.setdefault(_kind(file), []).append(file)
    lists_of_classes = by_kind.pop("classes", [])
    if len(lists_of_classes) > 1:
        raise DataError(f"{' and '.join(map(str, lists_of_classes))}: each is a list of classes. Give --labels one")
    if not by_kind:
        raise DataError(
            f"{', '.join(map(str, files))}: names classes and no videos. Give --labels the files that list the videos "
            "too; lines of `path label` need paths with a suffix, such as .mp4"
        )
    if len(by_kind) > 1:
        kinds = "; ".join(f"{kind}: {', '.join(file.name for file in some)}" for kind, some in by_kind.items())
        raise DataError(f"--labels takes the files of one dataset, and these are in several formats: {kinds}")
    (kind, annotations), *_ = by_kind.items()
    classes = read_classes(lists_of_classes[0]) if lists_of_classes else None
    return _READERS[kind](annotations, folder, classes)


def _kind(file: Path) -> str:
    if not file.is_file():
        what = "is a folder; give the files in it" if file.is_dir() else "no such file"
        raise DataError(f"{file}: {what}. --labels takes the dataset's label files, or a CSV with columns path,label")
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return "table"
    if HMDB51_FILE.fullmatch(file.name):
        return "hmdb51"
    with open_text(file) as handle:
        lines = [line.strip() for line in islice(handle, _SNIFFED_LINES)]
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{file}: the file is empty. It should list videos or classes")
    if suffix == ".json":
        return "classes" if lines[0].startswith("{") else "ssv2"
    columns = {name.strip().strip('"') for name in lines[0].split(",")}
    for kind, column in (("kinetics", "youtube_id"), ("table", "path"), ("classes", "name")):
        if column in columns:
            return kind
    if is_list(lines):
        return "list"
    if suffix == ".csv":
        raise DataError(
            f"{file}: in no format that is known. The first line of a CSV must name the columns path,label or be that "
            f"of Kinetics (label,youtube_id,...); each line of a list is `path label`. It has: {lines[0][:80]}"
        )
    return "classes"
