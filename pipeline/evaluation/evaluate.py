"""Scores of a model on a split: several views a video, top-1 and top-5 per clip and per video."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from tubelet.backbones import Model
from tubelet.datasets import ClipSettings, DataError, ShardedSplit, rank_share, start_forkserver, view_batches

from ..checkpoints.finding import load_trained
from ..cluster.distributed import World, join
from ..config import Count, Natural, Positive, Precision
from ..errors import ConfigError
from ..files import write_json
from ..inputs.clips import ClipInput, autocast
from .metrics import Metrics, VideoScores, as_targets, hits, metrics_of

Average = Literal["softmax", "logits"]


@dataclass(frozen=True)
class EvaluateConfig:
    checkpoint: Path | None = None
    """Folder of a training run (its best checkpoint is taken), or one checkpoint in it."""
    data: str | None = None
    """Folder that `tubelet prepare` made, here or at a URL; or tars of any origin by name, with {000..012} and *; or
    `pipe:` and a command that puts out a tar."""
    cache: Path | None = None
    """Folder for shards that are not on this machine (default: $TUBELET_HOME/shards or ~/.cache/tubelet/shards)."""
    split: str = "val"
    """Split to evaluate on."""
    views: str | None = None
    """Views of a video, temporal x spatial, such as 4x3: clips evenly spread over the video, times crops of each (1 or
    3) (default: as the model was published)."""
    batch_size: Count = 16
    """Clips of one process at a time."""
    workers: Natural | None = None
    """Processes that read and decode (default: this process's share of the cores, at most 8)."""
    precision: Precision = "fp32"
    """Precision of the arithmetic."""
    decoder: Literal["pyav", "decord", "torchcodec"] = "pyav"
    """Which library decodes."""
    clip_deadline: Positive = 30.0
    """Seconds a worker has for a clip; a decoder that takes longer is ended, and its video is not counted."""
    out: Path | None = None
    """JSON file for the results (default: evaluation-<split>-<views>.json in the checkpoint's folder)."""
    timeout: Positive = 1800.0
    """Seconds the processes wait for each other before they give up."""


def parse_views(text: str) -> tuple[int, int]:
    """'4x3' -> (4, 3), temporal and spatial. Raises ConfigError."""
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    temporal, spatial = (int(number) for number in match.groups()) if match else (0, 0)
    if temporal < 1 or spatial not in (1, 3):
        raise ConfigError(
            f"--views {text}: give temporal x spatial views, such as 4x3: at least 1 clip, and 1 or 3 crops of each"
        )
    return temporal, spatial


def evaluate(config: EvaluateConfig) -> Metrics:
    """Evaluates as `config` says, prints the scores on rank 0 and writes them beside the checkpoint."""
    asked = parse_views(config.views) if config.views else None
    if config.workers != 0:
        start_forkserver()
    model, state, checkpoint = load_trained(config.checkpoint)
    if config.data is None:
        raise DataError("nothing to evaluate on. --data takes a folder that `tubelet prepare` made, or tars")
    split = ShardedSplit(config.data, config.split, config.cache)
    check_classes(split, state.classes, checkpoint)
    world = join(config.timeout)
    views = asked or model.clip.views
    settings = ClipSettings(**asdict(state.clip), decoder=config.decoder, deadline=config.clip_deadline)
    workers = world.default_workers() if config.workers is None else config.workers
    metrics = score(model.to(world.device), split, settings, views, world, config.batch_size, workers, config.precision)
    if world.is_main:
        shape = "x".join(map(str, views))
        out = config.out or checkpoint / f"evaluation-{config.split}-{shape}.json"
        print(f"{checkpoint} on {config.split} of {config.data}, views {shape}:\n  {metrics}\n  written to {out}")
        about = {"checkpoint": checkpoint, "data": config.data, "split": config.split, "views": shape}
        write_json(out, {**about, **metrics.as_dict()})
    return metrics


def check_classes(split: ShardedSplit, classes: list[str], checkpoint: Path) -> None:
    """Raises ConfigError unless the data has the classes, in the order, that the checkpoint was trained on, and
    DataError unless each video has one of them, or as many as the dataset is made for."""
    if not split.card.multilabel:
        split.require_one_label()
    if split.classes == classes:
        return
    missing, new = [c for c in classes if c not in split.classes], [c for c in split.classes if c not in classes]
    parts = [f"{len(missing)} are missing, such as '{missing[0]}'"] if missing else []
    parts += [f"{len(new)} are unknown to it, such as '{new[0]}'"] if new else []
    raise ConfigError(
        f"{checkpoint} tells {len(classes)} classes apart, and {split.data} has {len(split.classes)}: "
        + ("; ".join(parts) or "the same ones in another order")
        + ". Give the data the model was trained on, or fine-tune it on this data"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def score(
    model: Model,
    split: ShardedSplit,
    settings: ClipSettings,
    views: tuple[int, int],
    world: World,
    clips_at_a_time: int,
    workers: int,
    precision: str,
) -> Metrics:
    """Metrics of `model`, on the device, over all ranks: each video on one rank, once. The same on every rank."""
    share = rank_share(len(split), world.size, world.rank)
    parts = [VideoScores.empty(len(split.classes), views[0] * views[1])]
    unread = 0
    with tqdm(total=len(share), desc="evaluating", unit=" videos", disable=None if world.is_main else True) as bar:
        for part, faults in video_scores(
            model, split, settings, views, world, share, clips_at_a_time, workers, precision
        ):
            parts.append(part)
            unread += len(faults)
            bar.update(len(part.index) + len(faults))
    everywhere = world.gather((VideoScores.joined(parts), unread))
    return settled(VideoScores.joined([part for part, _ in everywhere]), split, sum(lost for _, lost in everywhere))


def settled(videos: VideoScores, split: ShardedSplit, unread: int) -> Metrics:
    """Raises DataError where no video could be scored."""
    if not len(videos.index):
        raise DataError(f"{split.data}: none of its {unread} {split.split} videos can be read. Prepare it again")
    return metrics_of(videos, split.labels[videos.index], unread)


@torch.inference_mode()
def video_scores(
    model: Model,
    split: ShardedSplit,
    settings: ClipSettings,
    views: tuple[int, int],
    world: World,
    share: Sequence[int],
    clips_at_a_time: int,
    workers: int,
    precision: str,
    average: Average = "softmax",
) -> Iterator[tuple[VideoScores, list[tuple[str, str]]]]:
    """Scores of the videos `share`, some at a time, with the (key, cause) of those that could not be read."""
    inputs = ClipInput(model.clip, world.device, precision)
    count = views[0] * views[1]
    for batch in view_batches(split, settings, views, share, max(1, clips_at_a_time // count), workers):
        for _, key, cause in batch.faults:
            print(f"not evaluated: {key}: {cause}", file=sys.stderr)
        part = VideoScores.empty(len(split.classes), count)
        if len(batch.indices):
            with evaluating(model):
                logits = _logits(model, inputs, batch.clips, clips_at_a_time, precision)
            scores = _scores(logits, average, split.card.multilabel).cpu().numpy()
            targets = as_targets(np.asarray(batch.labels), len(split.classes))
            clip_hits = hits(scores, targets[:, None].repeat(count, 1)).sum(1)
            part = VideoScores(np.asarray(batch.indices, np.int64), scores.mean(1), clip_hits, count)
        yield part, [(key, cause) for _, key, cause in batch.faults]


def _logits(model: Model, inputs: ClipInput, clips: torch.Tensor, clips_at_a_time: int, precision: str) -> torch.Tensor:
    """Logits (B, V, classes) of clips (B, V, T, S, S, 3), at most `clips_at_a_time` in the model at once."""
    flat = clips.flatten(0, 1)
    with autocast(inputs.device, precision):
        logits = [model(inputs.views(part)) for part in flat.split(clips_at_a_time)]
    return torch.cat(logits).float().unflatten(0, clips.shape[:2])


def _scores(logits: torch.Tensor, average: Average, multilabel: bool) -> torch.Tensor:
    if average == "logits":
        return logits
    return logits.sigmoid() if multilabel else logits.softmax(-1)
