"""The dataset card: one JSON file beside the shards that says what they hold and how to tell that they are whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import DataError

CARD_FILE = "card.json"
FORMAT = "tubelet-dataset"
VERSION = 2


@dataclass(frozen=True)
class Shard:
    """file: name of the tar; videos: how many it holds; bytes and sha256: of the tar as written."""

    file: str
    videos: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """videos: in all shards of the split; listed: in what it was made from, missing and bad ones too; per_class:
    videos by class name, of those that have any; shards: in order."""

    videos: int
    listed: int
    per_class: dict[str, int]
    shards: list[Shard]


@dataclass(frozen=True)
class Card:
    """classes: names in label order (empty without labels); multilabel: a video may have any number of labels;
    splits by name; source: what it was made from."""

    name: str
    classes: list[str]
    multilabel: bool
    splits: dict[str, Split]
    source: dict[str, Any] = field(default_factory=dict)


def write_card(card: Card, folder: Path) -> None:
    """Writes the card last and in one step: a folder without a card is not a finished dataset."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(card)}, indent=1)
    temporary = folder / f".{CARD_FILE}.tmp"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / CARD_FILE)


def read_card(folder: Path) -> Card:
    """Reads a dataset's card. Raises DataError for a folder that is none, is unfinished, or of another version."""
    file = folder / CARD_FILE
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. `tubelet prepare --videos FOLDER --out {folder}` makes a dataset")
    if not file.is_file():
        raise DataError(
            f"{folder}: holds no {CARD_FILE}, so it is not a prepared dataset or its preparation did not finish. "
            f"`tubelet prepare --videos FOLDER --out {folder}` makes one"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}). Prepare the dataset again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{file}: is not the card of a tubelet dataset. Prepare the dataset again")
    if content.get("version") != VERSION:
        raise DataError(
            f"{file}: written in version {content.get('version')} of the shard format, and this tubelet reads version "
            f"{VERSION}. Prepare the dataset again with this tubelet, or install the one that wrote it"
        )
    try:
        return _card_of(content)
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: is incomplete ({error!r}). Prepare the dataset again") from error


def _card_of(content: dict[str, Any]) -> Card:
    splits = {
        name: Split(**{**split, "shards": [Shard(**shard) for shard in split["shards"]]})
        for name, split in content["splits"].items()
    }
    return Card(content["name"], content["classes"], content["multilabel"], splits, content["source"])
