"""`tubelet index`: what makes tars of any origin a dataset, an index beside each and a card in their folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from ..annotations.classes import read_classes
from ..errors import DataError
from .card import CARD_FILE, Card, read_card, write_card
from .index import Index, belongs, read_index
from .patterns import expand, is_local, names_shards, split_of
from .scanning import DEADLINE_S, index_shards
from .sources import describe, open_dataset

REPORT_FILE = "index-report.json"
_SHOWN = 20  # samples and shards named on the terminal


@dataclass(frozen=True)
class IndexConfig:
    data: tyro.conf.Positional[str]
    """Folder of tars, with or without card.json; or tars by name, with {000..012} and *; or a URL of either."""
    classes: Path | None = None
    """File with the names of the classes in the order of their numbers, for the card: a name a line, or JSON {name: id}
    (default: as the shards tell: names beside numbers, else names in alphabetical order, else the numbers)."""
    split: Literal["train", "val", "test"] = "train"
    """Split of the shards whose names do not tell one."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that look through the videos (0: one per core)."""
    deadline: Annotated[float, Field(gt=0)] = DEADLINE_S
    """Seconds a video may take; then it is left out."""
    cache: Path | None = None
    """Folder for shards that are not on this machine (default: $TUBELET_HOME/shards or ~/.cache/tubelet/shards)."""


def index_data(config: IndexConfig) -> Iterator[str]:
    """Writes what is missing as `config` says, and tells what is there then.

    Raises DataError where nothing is found, and, once all else is written, for shards that cannot be indexed.
    """
    folder = Path(config.data)
    if not is_local(config.data):
        yield from _elsewhere(config)
        return
    if names_shards(config.data):
        if config.classes:
            raise DataError("--classes goes into the card of a folder: give the folder that the tars are in")
        card, shards = None, [Path(location) for location in expand(config.data)]
    else:
        card = read_card(folder) if (folder / CARD_FILE).is_file() or not folder.is_dir() else None
        files = [shard.file for split in card.splits.values() for shard in split.shards] if card else []
        shards = [folder / file for file in files] or sorted(folder.rglob("*.tar"))
    if not shards:
        raise DataError(f"{folder}: holds no .tar; compressed tars have to be unpacked first")
    yield from _write_all(shards, config)
    indices = [read_index(shard) for shard in shards]
    yield from _report(shards, indices, folder if folder.is_dir() else shards[0].parent)
    if card is not None:
        _compare(card, shards, indices)
    elif folder.is_dir():
        yield from _describe(folder, shards, indices, config)


def _write_all(shards: Sequence[Path], config: IndexConfig) -> Iterator[str]:
    lacking = [shard for shard in shards if not _is_whole(shard)]
    if len(lacking) < len(shards):
        yield f"{len(shards) - len(lacking)} of {len(shards)} shards have their index already"
    faults = index_shards(lacking, config.workers, config.deadline)
    if faults:
        named = "\n  ".join(map(str, list(faults.values())[:_SHOWN]))
        raise DataError(
            f"{len(faults)} of {len(shards)} shards cannot be indexed; mend or remove them and run it again:\n  {named}"
        )


def _is_whole(shard: Path) -> bool:
    try:
        return belongs(read_index(shard), shard)
    except (DataError, OSError):  # which says so when it is written
        return False


def _report(shards: Sequence[Path], indices: Sequence[Index], folder: Path) -> Iterator[str]:
    left_out = [(shard, *each) for shard, index in zip(shards, indices, strict=True) for each in index.left_out]
    videos = sum(index.table.num_rows for index in indices)
    yield f"{videos} videos of {videos + len(left_out)} samples in {len(shards)} shards"
    if not left_out:
        return
    entries = [{"shard": str(shard), "key": key, "cause": cause} for shard, key, cause in left_out]
    (folder / REPORT_FILE).write_text(json.dumps(entries, indent=1), encoding="utf-8")
    print(f"{len(left_out)} samples are left out ({folder / REPORT_FILE}):", file=sys.stderr)
    for shard, key, cause in left_out[:_SHOWN]:
        print(f"  {shard.name}, {key}: {cause}", file=sys.stderr)
    if len(left_out) > _SHOWN:
        print(f"  ... and {len(left_out) - _SHOWN} more", file=sys.stderr)


def _compare(card: Card, shards: Sequence[Path], indices: Sequence[Index]) -> None:
    told = [shard.sha256 for split in card.splits.values() for shard in split.shards]
    others = [s for s, index, sha256 in zip(shards, indices, told, strict=True) if index.sha256 != sha256]
    if others:
        raise DataError(
            f"{others[0]}: is not the shard that the card tells of (nor are {len(others) - 1} others). Copy it again, "
            "or prepare the dataset again"
        )


def _describe(folder: Path, shards: Sequence[Path], indices: Sequence[Index], config: IndexConfig) -> Iterator[str]:
    if not any(index.table.num_rows for index in indices):
        raise DataError(f"{folder}: no sample in its {len(shards)} shards has a video that can be read")
    classes = _read_classes(config.classes) if config.classes else None
    files = [shard.relative_to(folder).as_posix() for shard in shards]
    card, told = describe(folder.resolve().name, files, indices, classes, config.split)
    write_card(card, folder)
    yield f"{folder / CARD_FILE}: {len(card.classes)} classes, from {told}"
    if nameless := sum(split_of(file) is None for file in files):
        yield f"  {nameless} shards tell no split by their names, so they are {config.split}"
    for name, split in card.splits.items():
        yield f"  {name}: {split.videos} videos in {len(split.shards)} shards"


def _read_classes(file: Path) -> list[str]:
    classes = read_classes(file).by_id
    if list(classes) != list(range(len(classes))):
        raise DataError(f"--classes {file}: numbers its classes from {min(classes)} on or with gaps; shards begin at 0")
    return list(classes.values())


def _elsewhere(config: IndexConfig) -> Iterator[str]:
    if config.classes:
        raise DataError("--classes goes into the card of a folder on this machine: copy the shards here first")
    dataset = open_dataset(config.data, config.cache, config.split)
    for name, split in dataset.card.splits.items():
        videos = sum(index.table.num_rows for index in dataset.indices(name))
        yield f"{name}: {videos} videos in {len(split.shards)} shards, indexed in {dataset.cache}"
