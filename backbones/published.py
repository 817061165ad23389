"""Weights that publishers offer: a record of each in published.yaml, and the file itself where it is wanted."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from .download import check, download
from .layouts import WeightsError
from .model import ClipSpec


@dataclass(frozen=True)
class PublishedWeights:
    """One file of weights that somebody published, as they describe it; None where they do not say.

    id: what `load_weights` and `create_published` take. model, arguments: what `create_model` needs besides classes and
    clip. source: the page that the record was made from. url: the file, or None where there is only a page. licence:
    that of the weights, or of the repository that holds them, as stated. clip: the input it was trained or tested with,
    and the views behind top1 and top5 (percent). sha256: the file's hash, or the first digits of it, which many
    publishers put in its name.
    """

    id: str
    model: str
    arguments: Mapping[str, Any]
    file: str
    url: str | None
    source: str
    licence: str
    dataset: str
    classes: int | None
    clip: ClipSpec
    top1: float | None = None
    top5: float | None = None
    sha256: str | None = None

    @property
    def call(self) -> dict[str, Any]:
        """The arguments of `create_model` that build the network these weights are of."""
        given = {"name": self.model, "num_classes": self.classes, "size": self.clip.size, **self.arguments}
        return given if self.clip.frames == 1 else {**given, "frames": self.clip.frames}  # an image has no frames

    def clip_for(self, clip: ClipSpec) -> ClipSpec:
        """`clip`, of a model as built, with what these weights were trained for: an image's says how to normalise, a
        video's also which frames to take."""
        trained = replace(self.clip, frames=clip.frames, size=clip.size)
        return replace(clip, mean=self.clip.mean, std=self.clip.std) if self.clip.frames == 1 else trained


def published_weights(model: str | None = None) -> list[PublishedWeights]:
    """All records, or those of the models whose names match a shell pattern such as "timesformer*", in file order."""
    return [record for record in _records().values() if model is None or fnmatch.fnmatch(record.model, model)]


def meant_by(source: object) -> PublishedWeights | None:
    """The record whose id `source` is; None where a file or folder of that name exists, which comes first."""
    name = str(source)
    return _records().get(name) if not Path(name).exists() else None


def nearest_published(name: str) -> str:
    """ ", nor ..." of the ids that are meant by `name` perhaps, or nothing."""
    near = difflib.get_close_matches(name, _records(), n=3, cutoff=0.75)
    return f", nor are there published weights of that id; did you mean {' or '.join(near)}?" if near else ""


def published_record(name: str) -> PublishedWeights:
    """The record of this id; an unknown one raises WeightsError."""
    if name in _records():
        return _records()[name]
    near = difflib.get_close_matches(name, _records(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise WeightsError(f"there are no published weights {name!r}; {hint}`tubelet models --weights` lists them")


def fetch(record: PublishedWeights | str, cache_dir: str | Path | None = None) -> Path:
    """The file of a record, downloaded into the cache unless it is there, and checked.

    The cache is $TUBELET_HOME/weights, else tubelet/weights in $XDG_CACHE_HOME or ~/.cache. A file that was put there
    by hand is taken. Raises WeightsError with the cause and the mend where it cannot be had.
    """
    record = published_record(record) if isinstance(record, str) else record
    path = Path(cache_dir or _cache()) / record.id / record.file
    if record.url is not None:
        download(record.url, path, record.sha256)
    elif path.is_file():
        check(path, record.sha256)
    else:
        raise WeightsError(
            f"{record.id} has no address that can be downloaded; find {record.file} on {record.source} "
            f"and put it at {path}"
        )
    return path


def _cache() -> Path:
    if home := os.environ.get("TUBELET_HOME"):
        return Path(home, "weights").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tubelet", "weights")


@cache
def _records() -> dict[str, PublishedWeights]:
    """The groups of published.yaml: what a record leaves out, it shares with its group."""
    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    groups = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # both are safe; the first is compiled
    records = [_record(group.get("shared", {}), own) for group in groups for own in group["records"]]
    return {record.id: record for record in records}


def _record(shared: Mapping[str, Any], own: Mapping[str, Any]) -> PublishedWeights:
    fields = {"arguments": {}, "url": None, **shared, **own}
    base = fields.pop("base", None)
    if fields["url"] is not None:
        url = f"{base or ''}{fields['url']}"
        fields |= {"url": url, "file": fields.get("file") or PurePosixPath(urlsplit(url).path).name}
    fields["clip"] = clip_spec({**shared.get("clip", {}), **own.get("clip", {})})
    return PublishedWeights(**fields)


def clip_spec(fields: Mapping[str, Any]) -> ClipSpec:
    """A ClipSpec of what YAML or JSON made of one: lists where it has tuples."""
    exact: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return ClipSpec(**exact)
