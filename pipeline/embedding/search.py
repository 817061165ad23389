"""The nearest of stored clips to a video, or to another of them: exact, by cosine, in memory that does not grow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
import tyro

from tubelet.video import Windows

from ..checkpoints.trained import load_network
from ..config import Count
from ..errors import ConfigError
from .embedder import Embedder
from .network import check_same_network
from .parts import Index, vectors_of

_ROWS = 65_536  # that are compared at once


@dataclass(frozen=True)
class SearchConfig:
    index: tyro.conf.Positional[Path]
    """Folder that `tubelet embed` made."""
    video: Path | None = None
    """Video to search with; it is embedded as those of the index were."""
    key: str | None = None
    """Search with a video of the index, which is then not among the answers."""
    checkpoint: Path | None = None
    """The network of the index (default: from where it was when the index was made)."""
    top: Count = 10
    """How many clips."""
    json: bool = False
    """Print them as JSON."""


@dataclass(frozen=True)
class Found:
    """A clip of the index. similarity: cosine with the query, 1 for the same direction."""

    similarity: float
    key: str
    split: str | None
    label: str | list[str] | None
    start: float
    end: float


def search(config: SearchConfig) -> list[Found]:
    """The `top` clips of the index that are nearest to the mean vector of the query, the nearest first. Raises
    ConfigError, DataError, VideoError."""
    if (config.video is None) == (config.key is None):
        raise ConfigError("search with --video FILE or with --key KEY of the index: give one of them")
    index = Index(config.index)
    query = _of_key(index, config.key) if config.key is not None else _of_video(index, config)
    return nearest(index, query, config.top, without=config.key)


def lines(found: list[Found], as_json: bool) -> Iterator[str]:
    """What is printed."""
    if as_json:
        yield json.dumps([asdict(each) for each in found], indent=1)
        return
    wide = max([3, *(len(each.key) for each in found)])
    yield f"{'similarity':>10}  {'key':{wide}}  {'seconds':>17}  label"
    for each in found:
        label = "|".join(each.label) if isinstance(each.label, list) else each.label or ""
        yield f"{each.similarity:10.4f}  {each.key:{wide}}  {each.start:8.2f}-{each.end:8.2f}  {label}"


def nearest(index: Index, query: np.ndarray, top: int, without: str | None = None) -> list[Found]:
    """The `top` clips by cosine with `query` (features,); among equals, the first in the index."""
    direction = F.normalize(torch.from_numpy(query), dim=0)
    best: list[Found] = []
    for batch, vectors in index.batches(_ROWS):
        similar = F.normalize(torch.from_numpy(vectors), dim=1) @ direction
        if without is not None:
            similar[torch.from_numpy(pc.equal(batch.column("key"), without).to_numpy(zero_copy_only=False))] = -2.0
        values, rows = similar.sort(descending=True, stable=True)
        for value, row in zip(values[:top].tolist(), rows[:top].tolist(), strict=True):
            if value >= -1.5:
                about = batch.slice(row, 1).drop_columns(["vector"]).to_pylist()[0]
                label = about["labels"] if "labels" in about else about["label"]
                best.append(Found(value, about["key"], about["split"], label, about["start"], about["end"]))
        best = sorted(best, key=lambda each: -each.similarity)[:top]
    return best


def _of_key(index: Index, key: str) -> np.ndarray:
    found = [
        vectors_of(mine) for batch, _ in index.batches(_ROWS) if len(mine := batch.filter(pc.equal(batch["key"], key)))
    ]
    if not found:
        raise ConfigError(f"--key {key}: {index.folder} has no video of that key")
    return np.concatenate(found).mean(0)


def _of_video(index: Index, config: SearchConfig) -> np.ndarray:
    about = index.about
    trained = load_network(config.checkpoint or Path(about["checkpoint"]))
    check_same_network(trained, about, index.folder)
    windows = Windows(**about["windows"])
    embedder = Embedder(trained, layer=about["layer"], precision=about["precision"], windows=windows)
    assert config.video is not None
    return embedder.embed(config.video)
