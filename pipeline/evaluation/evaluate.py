"""`tubelet evaluate`: a model on a split, several views a video, with results to compare and to look into."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tubelet.datasets import ClipSettings, DataError, ShardedSplit, start_forkserver

from ..checkpoints.state import Clip
from ..checkpoints.trained import Trained, load_network
from ..cluster.distributed import join, naming_lost_ranks
from ..config import Count, Natural, Positive, Precision, Views, parse_views
from ..errors import ConfigError, first_line
from ..files import write_json
from ..pictures.confusion import draw_confusion
from .classes import check_classes, classes_of
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
    classes: Path | None = None
    """File with the names of the classes in label order, a name a line, for weights that come without (default: those
    of the published dataset that they are of)."""
    views: Views | None = None
    """Views of a video, temporal x spatial, such as 4x3: clips evenly spread over the video, times crops of each (1 or
    3) (default: those of the run's recipe, else as the weights or the model were published)."""
    view_size: Count | None = None
    """Side of the views in pixels, for networks that take any (default: likewise, else as it was trained)."""
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
    evaluation-<split>-<views>.json in the checkpoint's folder; of weights from elsewhere <name>-<split>-<views>.json
    here)."""
    against: Path | None = None
    """The JSON file of another evaluation on the same videos, to compare with."""
    timeout: Positive = 1800.0
    """Seconds the processes wait for each other before they give up."""


@naming_lost_ranks()
def evaluate(config: EvaluateConfig) -> Metrics:
    """Evaluates as `config` says, prints the scores on rank 0 and writes them beside the checkpoint. An evaluation that
    was killed goes on where it stopped, with any number of processes, to the same results.

    Raises ConfigError for what does not fit, and for results that cannot be written, DataError where no video is read.
    """
    if config.out is not None and config.out.suffix != ".json":
        raise ConfigError(f"--out {config.out}: give a file that ends in .json")
    if config.workers != 0:
        start_forkserver()
    trained = load_network(config.checkpoint)
    if config.data is None:
        raise DataError("nothing to evaluate on. --data takes a folder that `tubelet prepare` made, or tars")
    split = ShardedSplit(config.data, config.split, config.cache)
    classes, told = classes_of(trained, split, config.classes)
    check_classes(split, classes, trained.source)
    other = None if config.against is None else read_results(config.against)
    if other is not None:
        check_comparable(config.split, [split.key(number) for number in range(len(split))], other, str(config.against))
    world = join(config.timeout)
    if told and world.is_main:
        print(told, flush=True)
    trained.model.to(world.device)
    views, clip = protocol(config, trained)
    settings = ClipSettings(**asdict(clip), decoder=config.decoder, deadline=config.clip_deadline)
    workers = world.default_workers() if config.workers is None else config.workers
    batch, precision = config.batch_size, config.precision
    scorer = Scorer(trained.model, split, settings, views, world, batch, workers, precision, config.average)
    about = _about(config, "x".join(map(str, views)), clip, trained, split)
    out = config.out or _default_out(trained.source, about)
    with Progress(out, {**about, "batch_size": batch, "dataset": split.card.fingerprint()}, world) as progress:
        if world.is_main and progress.done:
            print(f"{progress.folder}: going on, {len(progress.done)} batches are scored already", flush=True)
        scored = scorer.score(progress.done, progress.add)
    metrics = scorer.metrics(scored)
    if world.is_main:
        _write(metrics, Results.of(scored, split, about), other, config.against, out)
    progress.finish()
    return metrics


def protocol(config: EvaluateConfig, trained: Trained) -> tuple[tuple[int, int], Clip]:
    """The views of a video, and their clip: as `config` says, else as the run's recipe or the publication of the
    network does. Raises ConfigError for a size that the network cannot take."""
    published, clip = trained.model.clip, trained.clip
    views = parse_views(config.views) if config.views else published.views
    size = config.view_size or published.view_size or clip.size
    if size != clip.size:
        parameter = next(trained.model.parameters())
        try:
            with torch.inference_mode():
                trained.model(torch.zeros(1, 3, clip.frames, size, size, device=parameter.device))
        except (ValueError, RuntimeError) as error:
            if _out_of_memory(error):
                raise ConfigError(
                    f"--view-size {size}: one clip of {clip.frames} frames does not fit into the memory of "
                    f"{parameter.device} ({first_line(error)}). Give a smaller one"
                ) from error
            raise ConfigError(
                f"--view-size {size}: {trained.source} takes no other size than {clip.size} ({first_line(error)})"
            ) from error
    return views, replace(clip, size=size)


def _out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch found no room for a tensor; on a CPU only the words of its RuntimeError tell."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _default_out(source: str, about: dict[str, Any]) -> Path:
    name = f"{about['split']}-{about['views']}.json"
    return Path(source, f"evaluation-{name}") if Path(source).is_dir() else Path(f"{Path(source).name}-{name}")


def _about(config: EvaluateConfig, views: str, clip: Clip, trained: Trained, split: ShardedSplit) -> dict[str, Any]:
    """What scores depend on, and what they are of."""
    return {
        "checkpoint": trained.source,
        "weights_sha256": trained.sha256,
        "model": trained.model.config,
        "clip": asdict(clip),
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
        f"{results.averaged} averaged:\n  " + "\n  ".join(said)
    )
