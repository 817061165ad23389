"""The dataset card: one JSON file beside the shards that says what they hold and how to tell that they are whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError

CARD_FILE = "card.json"
FORMAT = "tubelet-dataset"
VERSION = 2


@dataclass(frozen=True)
class Shard:
    """file: name of the tar, below the folder of the card; videos: how many it holds; bytes, sha256: of the tar."""

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

    def fingerprint(self) -> str:
        """A text that two datasets share only if they are the same."""
        shards = {name: [(shard.file, shard.sha256) for shard in split.shards] for name, split in self.splits.items()}
        return json.dumps([self.classes, self.multilabel, shards])


def write_card(card: Card, folder: Path) -> None:
    """Writes the card last and in one step: a folder without a card is not a finished dataset."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(card)}, indent=1)
    temporary = folder / f".{CARD_FILE}.tmp"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / CARD_FILE)


def read_card(folder: Path) -> Card:
    """Reads a dataset's card. Raises DataError for a folder that is none, is unfinished, or of another version."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. `tubelet prepare --videos FOLDER --out {folder}` makes a dataset")
    file = folder / CARD_FILE
    if not file.is_file():
        mend = f"`tubelet prepare --videos FOLDER --out {folder}` makes one"
        if any(folder.rglob("*.tar")):
            mend += f"; if its tars come from elsewhere, `tubelet index {folder}` makes it one"
        raise DataError(
            f"{folder}: holds no {CARD_FILE}, so it is not a prepared dataset or its preparation did not finish. {mend}"
        )
    return card_in(file)


def card_in(file: Path) -> Card:
    """The card in a file, as `read_card`."""
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
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: is incomplete ({error!r}). Prepare the dataset again") from error


def _card_of(content: dict[str, Any]) -> Card:
    splits = {
        name: Split(**{**split, "shards": [Shard(**shard) for shard in split["shards"]]})
        for name, split in content["splits"].items()
    }
    for file in (shard.file for split in splits.values() for shard in split.shards):
        parts = file.split("/")
        if not file.endswith(".tar") or "::" in file or "\\" in file or {"", ".", ".."} & set(parts):
            raise ValueError(f"it names a shard '{file}', which is no tar below its folder")
    return Card(content["name"], content["classes"], content["multilabel"], splits, content["source"])
