"""Clip embeddings of a dataset as Parquet: one row per clip, readable by pandas, pyarrow and anything else."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from tubelet.backbones import Model
from tubelet.datasets import (
    ClipSettings,
    DataError,
    ShardedSplit,
    ViewBatch,
    open_dataset,
    rank_share,
    start_forkserver,
    view_batches,
)

from ..checkpoints.finding import load_trained
from ..checkpoints.state import WEIGHTS_FILE, State
from ..cluster.distributed import World, join
from ..config import Count, Natural, Positive, Precision
from ..errors import ConfigError
from ..inputs.clips import ClipInput, autocast


@dataclass(frozen=True)
class EmbedConfig:
    checkpoint: Path | None = None
    """Folder of a training run (its best checkpoint is taken), or one checkpoint in it."""
    data: str | None = None
    """Folder that `tubelet prepare` made, here or at a URL; or tars of any origin by name, with {000..012} and *; or
    `pipe:` and a command that puts out a tar. Its videos need no labels."""
    cache: Path | None = None
    """Folder for shards that are not on this machine (default: $TUBELET_HOME/shards or ~/.cache/tubelet/shards)."""
    out: Path | None = None
    """Folder for the Parquet files, one per process."""
    split: str | None = None
    """Split to embed (default: all of them)."""
    clips: Count = 1
    """Clips of a video, evenly spread over it."""
    batch_size: Count = 16
    """Clips of one process at a time."""
    workers: Natural | None = None
    """Processes that read and decode (default: this process's share of the cores, at most 8)."""
    precision: Precision = "fp32"
    """Precision of the arithmetic; the vectors are stored in fp32."""
    decoder: Literal["pyav", "decord", "torchcodec"] = "pyav"
    """Which library decodes."""
    clip_deadline: Positive = 30.0
    """Seconds a worker has for a clip; a decoder that takes longer is ended, and its video is left out."""
    timeout: Positive = 1800.0
    """Seconds the processes wait for each other before they give up."""


def embed(config: EmbedConfig) -> Path:
    """Embeds as `config` says. Returns the folder with the Parquet files.

    Columns: key, split, label (null without one; of multi-label data labels, a list), start and end of the clip in
    seconds of its file, vector (fixed-size list of float32). The schema's metadata under `tubelet` says which model,
    weights and clip made them.
    """
    if config.data is None or config.out is None:
        raise ConfigError("embedding needs --checkpoint RUN, --data DIR (made by `tubelet prepare`) and --out DIR")
    if config.workers != 0:
        start_forkserver()
    model, state, checkpoint = load_trained(config.checkpoint)
    names = [config.split] if config.split else open_dataset(config.data, config.cache).card.splits
    splits = [ShardedSplit(config.data, name, config.cache) for name in names]
    world = join(config.timeout)
    if config.out.exists() and not config.out.is_dir():
        raise ConfigError(f"{config.out}: is a file. Give --out a folder")
    config.out.mkdir(parents=True, exist_ok=True)
    leftover = sorted(path.name for path in config.out.glob("*.parquet"))
    world.barrier()
    if leftover:
        raise ConfigError(f"{config.out}: already holds embeddings ({leftover[0]}). Choose another --out")
    part = config.out / f"embeddings-{world.rank:05d}-of-{world.size:05d}.parquet"
    rows, unread = _write_part(config, model.to(world.device), state, checkpoint, splits, world, part)
    rows, unread = (sum(counts) for counts in zip(*world.gather((rows, unread)), strict=True))
    if world.is_main:
        note = f"; {unread} videos could not be read" if unread else ""
        print(f"{rows} clips of {model.num_features} numbers each are in {config.out}{note}")
    return config.out


def _write_part(
    config: EmbedConfig,
    model: Model,
    state: State,
    checkpoint: Path,
    splits: list[ShardedSplit],
    world: World,
    part: Path,
) -> tuple[int, int]:
    """Writes this rank's rows, under another name until they are complete. Returns (rows, videos not read)."""
    schema = _schema(model, state, checkpoint, splits[0].card.multilabel)
    temporary = part.with_name(f".{part.name}.tmp")
    rows = unread = 0
    total = sum(len(rank_share(len(split), world.size, world.rank)) for split in splits)
    quiet = None if world.is_main else True
    with (
        pq.ParquetWriter(temporary, schema) as writer,
        tqdm(total=total, desc="embedding", unit=" videos", disable=quiet) as bar,
    ):
        for split in splits:
            for batch, vectors in _vectors(config, model, state, split, world):
                for _, key, cause in batch.faults:
                    unread += 1
                    print(f"not embedded: {key}: {cause}", file=sys.stderr)
                table = _table(split, batch, vectors, schema)
                writer.write_table(table)
                rows += table.num_rows
                bar.update(len(batch.indices) + len(batch.faults))
    if total and not rows:
        temporary.unlink()
        raise DataError(f"{config.data}: none of {total} videos can be read. Prepare it again")
    os.replace(temporary, part)
    return rows, unread


@torch.inference_mode()
def _vectors(
    config: EmbedConfig, model: Model, state: State, split: ShardedSplit, world: World
) -> Iterator[tuple[ViewBatch, np.ndarray]]:
    """Batches of this rank's videos with their vectors (B, clips, features) float32."""
    inputs = ClipInput(model.clip, world.device, config.precision)
    settings = ClipSettings(**asdict(state.clip), decoder=config.decoder, deadline=config.clip_deadline)
    workers = world.default_workers() if config.workers is None else config.workers
    share = rank_share(len(split), world.size, world.rank)
    per_batch = max(1, config.batch_size // config.clips)
    for batch in view_batches(split, settings, (config.clips, 1), share, per_batch, workers):
        vectors = torch.empty(0, config.clips, model.num_features)
        if len(batch.indices):
            parts = batch.clips.flatten(0, 1).split(config.batch_size)
            with autocast(world.device, config.precision):
                embedded = [model.embed(inputs.views(part)).float() for part in parts]
            vectors = torch.cat(embedded).unflatten(0, batch.clips.shape[:2]).cpu()
        yield batch, vectors.numpy()


def _schema(model: Model, state: State, checkpoint: Path, multilabel: bool) -> pa.Schema:
    digest = hashlib.sha256((checkpoint / WEIGHTS_FILE).read_bytes()).hexdigest()
    about = {"model": state.model, "weights_sha256": digest, "clip": asdict(state.clip)}
    columns = [
        ("key", pa.string()),
        ("split", pa.string()),
        ("labels", pa.list_(pa.string())) if multilabel else ("label", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("vector", pa.list_(pa.float32(), model.num_features)),
    ]
    return pa.schema(columns, metadata={"tubelet": json.dumps(about)})


def _names(split: ShardedSplit, label: np.ndarray) -> str | list[str] | None:
    if split.card.multilabel:
        return [split.classes[number] for number in np.flatnonzero(label)]
    return split.classes[label] if label >= 0 else None


def _table(split: ShardedSplit, batch: ViewBatch, vectors: np.ndarray, schema: pa.Schema) -> pa.Table:
    clips = vectors.shape[1]
    keys = [split.key(int(index)) for index in batch.indices for _ in range(clips)]
    labels = [_names(split, label) for label in batch.labels.numpy() for _ in range(clips)]
    seconds = batch.seconds.reshape(-1, 2).numpy()
    vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[2])
    return pa.table([keys, [split.split] * len(keys), labels, seconds[:, 0], seconds[:, 1], vector], schema=schema)
