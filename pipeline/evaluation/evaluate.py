"""`tubelet evaluate`: a model on a split, several views a video, with results to compare and to look into."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tubelet.backbones import is_on_hub, meant_by
from tubelet.datasets import ClipSettings, DataError, ShardedSplit, start_forkserver

from ..cluster.distributed import join, naming_lost_ranks
from ..config import Count, Natural, Positive, Precision
from ..embedding.network import Trained, load_network, names_of
from ..errors import ConfigError
from ..files import write_json
from ..pictures.confusion import draw_confusion
from .comparing import check_comparable, compared
from .confusion import confusion, most_confused
from .metrics import Metrics, average_precisions
from .progress import Progress
from .results import Results, read_results, write_table
from .scoring import Average, Scorer

_PRINTED = 5  # pairs, or classes


@dataclass(frozen=True)
class EvaluateConfig:
    checkpoint: Path | None = None
    """Folder of a training run (its best checkpoint is taken), one checkpoint in it, a folder that `tubelet export` or
    `tubelet convert` wrote, hf-hub:OWNER/NAME for such a folder on the Hub, or the id of published weights."""
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
    average: Average = "softmax"
    """What of a video's clips is averaged: softmax (sigmoid, of several labels) or logits."""
    batch_size: Count = 16
    """Clips of one process at a time. Rounding may depend on it, but not on the number of processes."""
    workers: Natural | None = None
    """Processes that read and decode (default: this process's share of the cores, at most 8)."""
    precision: Precision = "fp32"
    """Precision of the arithmetic."""
    decoder: Literal["pyav", "decord", "torchcodec"] = "pyav"
    """Which library decodes."""
    clip_deadline: Positive = 30.0
    """Seconds a worker has for a clip; a decoder that takes longer is ended, and its video is not counted."""
    out: Path | None = None
    """JSON file for the results, with a .parquet of each video and a .png of the confusion matrix beside it (default:
    evaluation-<split>-<views>.json in the checkpoint's folder, if it is one)."""
    against: Path | None = None
    """The JSON file of another evaluation on the same videos, to compare with."""
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


@naming_lost_ranks()
def evaluate(config: EvaluateConfig) -> Metrics:
    """Evaluates as `config` says, prints the scores on rank 0 and writes them beside the checkpoint. An evaluation that
    was killed goes on where it stopped, with any number of processes, to the same results.

    Raises ConfigError for what does not fit, and for results that cannot be written, DataError where no video is read.
    """
    asked = parse_views(config.views) if config.views else None
    if config.out is None and config.checkpoint is not None and _is_elsewhere(config.checkpoint):
        raise ConfigError(f"--out: name the file for the results, since {config.checkpoint} is no folder")
    if config.out is not None and config.out.suffix != ".json":
        raise ConfigError(f"--out {config.out}: give a file that ends in .json")
    if config.workers != 0:
        start_forkserver()
    trained = load_network(config.checkpoint)
    if config.data is None:
        raise DataError("nothing to evaluate on. --data takes a folder that `tubelet prepare` made, or tars")
    split = ShardedSplit(config.data, config.split, config.cache)
    check_classes(split, names_of(trained.classes or split.classes, trained), trained.source)
    other = None if config.against is None else read_results(config.against)
    if other is not None:
        check_comparable(config.split, [split.key(number) for number in range(len(split))], other, str(config.against))
    world = join(config.timeout)
    views = asked or trained.model.clip.views
    shape = "x".join(map(str, views))
    settings = ClipSettings(**asdict(trained.clip), decoder=config.decoder, deadline=config.clip_deadline)
    workers = world.default_workers() if config.workers is None else config.workers
    model = trained.model.to(world.device)
    batch, precision = config.batch_size, config.precision
    scorer = Scorer(model, split, settings, views, world, batch, workers, precision, config.average)
    about = _about(config, shape, trained, split)
    out = config.out or Path(trained.source) / f"evaluation-{config.split}-{shape}.json"
    with Progress(out, {**about, "batch_size": batch, "dataset": split.card.fingerprint()}, world) as progress:
        if world.is_main and progress.done:
            print(f"{progress.folder}: going on, {len(progress.done)} batches are scored already", flush=True)
        scored = scorer.score(progress.done, progress.add)
    metrics = scorer.metrics(scored)
    if world.is_main:
        _write(metrics, Results.of(scored, split, about), other, config.against, out)
    progress.finish()
    return metrics


def _is_elsewhere(checkpoint: Path) -> bool:
    return is_on_hub(checkpoint) or meant_by(checkpoint) is not None


def _about(config: EvaluateConfig, views: str, trained: Trained, split: ShardedSplit) -> dict[str, Any]:
    """What scores depend on, and what they are of."""
    return {
        "checkpoint": trained.source,
        "weights_sha256": trained.sha256,
        "model": trained.model.config,
        "clip": asdict(trained.clip),
        "data": config.data,
        "split": config.split,
        "views": views,
        "average": config.average,
        "precision": config.precision,
        "decoder": config.decoder,
        "multilabel": split.card.multilabel,
        "classes": split.classes,
    }


def _write(metrics: Metrics, results: Results, other: Results | None, against: Path | None, out: Path) -> None:
    """The files of an evaluation, and its words."""
    about = results.about
    told = {name: about[name] for name in ("checkpoint", "weights_sha256", "data", "split", "views", "average")}
    said = [str(metrics)]
    written = [out, out.with_suffix(".parquet")]
    read = np.flatnonzero(results.read)
    if about["multilabel"]:
        found = average_precisions(results.scores[read], results.targets[read])
        known = {results.classes[number]: float(found[number]) for number in np.flatnonzero(~np.isnan(found))}
        told["average_precision"] = known
        hardest = sorted(known, key=known.__getitem__)[:_PRINTED]
        said.append("hardest classes: " + ", ".join(f"{name} (AP {known[name]:.2%})" for name in hardest))
    else:
        counts = confusion(results.targets.argmax(1)[read], results.predicted[read], len(results.classes))
        pairs = most_confused(counts, results.classes)
        told["confused"] = [pair.as_dict() for pair in pairs]
        said.append("most confused: " + (", ".join(map(str, pairs[:_PRINTED])) or "nothing"))
        written.append(out.with_suffix(".png"))
        draw_confusion(counts, results.classes, written[-1])
    if other is not None:
        difference = compared(results, other, str(against))
        told["against"] = difference.as_dict()
        said.append(str(difference))
    write_table(results, out.with_suffix(".parquet"))
    write_json(out, {**told, **metrics.as_dict()})
    said.append("written to " + ", ".join(map(str, written)))
    print(
        f"{about['checkpoint']} on {about['split']} of {about['data']}, views {about['views']}, "
        f"{about['average']} averaged:\n  " + "\n  ".join(said)
    )


def check_classes(split: ShardedSplit, classes: list[str], checkpoint: str | Path) -> None:
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
