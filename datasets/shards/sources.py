"""What `--data` names, as one thing: a card, and its shards, which are here or brought here when first needed."""

from __future__ import annotations

import sys
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from ..errors import DataError
from .cache import NotThere, alone, bring, cached_path, default_cache
from .card import CARD_FILE, Card, Shard, Split, card_in, read_card
from .index import INDEX_SUFFIX, Index, index_path, read_index
from .labels import classes_told, is_multilabel, label_lists
from .patterns import PIPE, expand, is_local, names_shards, split_of
from .scanning import index_shards

_INDICES_AT_ONCE, _SHARDS_AT_ONCE = 16, 4  # that are fetched side by side


@dataclass(frozen=True)
class Dataset:
    """data: what the user named; card: what it holds; base: what stands before the names of its shards; cache: folder
    for what is not on this machine; versioned: the card knows the checksums of the shards from before."""

    data: str
    card: Card
    base: str
    cache: Path
    versioned: bool

    def split(self, name: str) -> Split:
        """Raises DataError for one that it does not have."""
        if name not in self.card.splits:
            raise DataError(f"{self.data}: has no split '{name}'; it has {', '.join(self.card.splits) or 'none'}")
        return self.card.splits[name]

    def indices(self, split: str) -> list[Index]:
        """The index of each shard of a split; those of shards elsewhere are fetched, or written in the cache."""
        shards = self.split(split).shards
        locations = [self.base + shard.file for shard in shards]
        places = [self._place(shard) for shard in shards]
        for shard, location, place in zip(shards, locations, places, strict=True):
            if is_local(location):
                _check(place, shard.bytes)
        indices = _indices(locations, places, [shard.sha256 for shard in shards])
        for shard, place, index in zip(shards, places, indices, strict=True):
            if index.sha256 != shard.sha256:
                raise DataError(
                    f"{index_path(place)}: is the index of another tar than the card tells of. `tubelet index` writes "
                    "it anew and says whether the shard itself is the one of the card"
                )
        return indices

    def path(self, shard: Shard) -> Path:
        """The tar on this machine; one that is elsewhere is fetched. Raises DataError for one that cannot be had."""
        location, path = self.base + shard.file, self._place(shard)
        if not is_local(location):
            bring(location, path, shard.sha256)
        return path

    def _place(self, shard: Shard) -> Path:
        location = self.base + shard.file
        return _here(location, self.cache, shard.sha256 if self.versioned else None)


def open_dataset(data: str | Path, cache: Path | None = None, unnamed: str = "train") -> Dataset:
    """The dataset that `data` names: a folder with a card, here or at a URL; a tar or several by braces and wildcards,
    here or at URLs; or `pipe:` and a command that puts out a tar.

    Tars whose folder has a card are a part of that dataset. Others tell their splits by their names, those that do not
    are the split `unnamed`; their classes are as `tubelet index` finds them.
    Raises DataError for what cannot be found, read or fetched.
    """
    text, cache = str(data), cache or default_cache()
    if names_shards(text):
        return _of_shards(text, expand(text), cache, unnamed)
    if is_local(text):
        return Dataset(text, read_card(Path(text)), f"{Path(text)}/", cache, True)
    base = f"{text.rstrip('/')}/"
    card = _remote_card(base, cache)
    if card is None:
        raise DataError(
            f"{base}{CARD_FILE}: there is none, so this is no prepared dataset. Name its shards instead, such as "
            f"{base}{{000000..000099}}.tar"
        )
    return Dataset(text, card, base, cache, True)


def _of_shards(data: str, locations: Sequence[str], cache: Path, unnamed: str) -> Dataset:
    for base in _folders_of(locations):
        if card := _card_beside(base, cache):
            whole = Dataset(data, card, base, cache, True)
            if part := _part(whole, {location.removeprefix(base) for location in locations}):
                return replace(whole, card=part)
    indices = _indices(locations, [_here(location, cache) for location in locations])
    card, _ = describe(data, locations, indices, unnamed=unnamed)
    return Dataset(data, card, "", cache, False)


def _folders_of(locations: Sequence[str]) -> list[str]:
    """Where the card of shards may be: the folder of the first, and the one above it."""
    if any(location.startswith(PIPE) or "?" in location for location in locations):
        return []
    beside = locations[0][: locations[0].rfind("/") + 1]
    above = beside[: beside.rstrip("/").rfind("/") + 1]
    return [folder for folder in dict.fromkeys([beside, above]) if not folder.endswith("://")]


def _card_beside(base: str, cache: Path) -> Card | None:
    try:
        if is_local(base):
            return read_card(Path(base)) if Path(base, CARD_FILE).is_file() else None
        return _remote_card(base, cache)
    except DataError as error:  # whatever it is, the shards were named without it
        print(f"{error}. Going on without it", file=sys.stderr)
        return None


def _remote_card(base: str, cache: Path) -> Card | None:
    """The card at a URL as it is now; where the network is away, as it was."""
    location = base + CARD_FILE
    path = cached_path(location, cache)
    try:
        bring(location, path, again=True)
    except NotThere:
        return None
    except DataError as error:
        if not path.is_file():
            raise
        print(f"{error}. Going on with the card in the cache", file=sys.stderr)
    return card_in(path)


def _part(whole: Dataset, files: Set[str]) -> Card | None:
    """The card of some of its shards; None where there are others among them."""
    card = whole.card
    splits = {
        name: replace(split, shards=[shard for shard in split.shards if shard.file in files])
        for name, split in card.splits.items()
    }
    splits = {name: split for name, split in splits.items() if split.shards}
    if sum(len(split.shards) for split in splits.values()) < len(files):
        return None
    some = replace(whole, card=replace(card, splits=splits))
    counted = {
        name: _split([(s.file, i) for s, i in zip(split.shards, some.indices(name), strict=True)], card.classes)
        for name, split in splits.items()
    }
    return replace(card, splits=counted)


def describe(
    name: str,
    files: Sequence[str],
    indices: Sequence[Index],
    classes: Sequence[str] | None = None,
    unnamed: str = "train",
) -> tuple[Card, str]:
    """The card of shards that have none, and in words where the names of its classes are from."""
    tables = [index.table for index in indices]
    found, told = (list(classes), "the file of classes") if classes is not None else classes_told(tables)
    members: dict[str, list[tuple[str, Index]]] = {}
    for file, index in zip(files, indices, strict=True):
        members.setdefault(split_of(file) or unnamed, []).append((file, index))
    splits = {split: _split(some, found) for split, some in members.items()}
    return Card(name, found, is_multilabel(tables), splits, {"shards": name, "classes": told}), told


def _split(members: Sequence[tuple[str, Index]], classes: Sequence[str]) -> Split:
    counts = np.zeros(len(classes), np.int64)
    shards = []
    for file, index in members:
        numbers = pc.list_flatten(label_lists(index.table, classes, file))
        counts += np.bincount(numbers.to_numpy(), minlength=len(classes))
        shards.append(Shard(file, index.table.num_rows, index.bytes, index.sha256))
    videos = sum(shard.videos for shard in shards)
    left_out = sum(len(index.left_out) for _, index in members)
    per_class = {name: int(count) for name, count in zip(classes, counts, strict=True) if count}
    return Split(videos, videos + left_out, per_class, shards)


def _check(shard: Path, size: int) -> None:
    if not shard.is_file():
        raise DataError(f"{shard}: the shard is missing. Copy the dataset again, or prepare it again")
    if (found := shard.stat().st_size) != size:
        raise DataError(
            f"{shard}: the shard has {found} bytes where the card says {size}: it was cut short or changed. Copy it "
            "again, or prepare the dataset again"
        )


def _here(location: str, cache: Path, sha256: str | None = None) -> Path:
    """Where a shard is on this machine, or will be."""
    return Path(location) if is_local(location) else cached_path(location, cache, sha256)


def _indices(locations: Sequence[str], places: Sequence[Path], known: Sequence[str] | None = None) -> list[Index]:
    """The index of each shard; those that are nowhere are written in the cache, once for all processes of a machine.
    known: sha256 of the shards, where a card tells."""
    if all(map(is_local, locations)):
        return list(map(read_index, places))
    with ThreadPoolExecutor(_INDICES_AT_ONCE) as threads:
        found = threads.map(_found, locations, places)
        indices = list(tqdm(found, "indices", len(locations), leave=False, disable=None))
    lacking = [i for i, index in enumerate(indices) if index is None]
    if lacking:
        with alone(places[lacking[0]].parent / "indices"):
            lacking = [i for i in lacking if not index_path(places[i]).is_file()]
            if lacking:
                _write_indices([(locations[i], places[i], known[i] if known else None) for i in lacking])
    return [index or read_index(place) for index, place in zip(indices, places, strict=True)]


def _found(location: str, place: Path) -> Index | None:
    """The index of a shard; None for one elsewhere that has none that can be used."""
    if is_local(location):
        return read_index(place)
    file = index_path(place)
    fresh = not file.is_file()
    if fresh:
        if location.startswith(PIPE) or "?" in location:  # nothing lies beside a command's output or a signed address
            return None
        try:
            bring(location.removesuffix(".tar") + INDEX_SUFFIX, file)
        except NotThere:
            return None
    try:
        index = read_index(place)
        index.table.validate(full=fresh)  # wholly once: it reads all of it
        return index
    except (DataError, pa.ArrowException):  # of another version, or damaged: it is written anew
        file.unlink(missing_ok=True)
        return None


def _write_indices(shards: Sequence[tuple[str, Path, str | None]]) -> None:
    locations, places, known = zip(*shards, strict=True)
    print(
        f"{len(shards)} shards have no index, the first of them {locations[0]}: each is fetched and looked through "
        f"now, into {places[0].parent}. Once done, it is not done again; indices beside the shards spare it",
        file=sys.stderr,
    )
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as threads:
        list(tqdm(threads.map(bring, locations, places, known), "fetching", len(shards), unit=" shards", disable=None))
    faults = index_shards(places)
    for place in faults:  # they are fetched anew the next time
        place.unlink()
    for location, place in zip(locations, places, strict=True):
        if place in faults:
            raise DataError(f"{location}: cannot be indexed: {faults[place]}")
    left_out = [each for place in places for each in read_index(place).left_out]
    if left_out:
        key, cause = left_out[0]
        print(f"{len(left_out)} of their samples are left out, the first of them {key}: {cause}", file=sys.stderr)
