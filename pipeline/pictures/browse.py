"""`tubelet browse`: a dataset's clips as the model sees them, per class, as one picture or one page."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import tyro

from tubelet.backbones import ClipSpec, meant_by
from tubelet.datasets import ClipSettings, DataError, ShardedSplit, TrainBatch, train_draws, view_batches

from ..checkpoints.state import Clip
from ..config import Count, Natural, Sampling, TrainConfig, read_recipe, with_model_defaults
from ..errors import ConfigError
from ..inputs.clips import TrainInput
from ..inputs.mirroring import Mirroring
from ..training.setup import build_model, clip_of, clip_settings
from .sheets import Shown, Videos, write_page, write_sheet

_TOGETHER = 4  # videos whose draws are augmented as one batch, so that mixup and CutMix have others to mix with
_UNLABELLED = "(unlabelled)"
_GREY = (0.45,) * 3, (0.225,) * 3  # mean and deviation where no model has its own


@dataclass(frozen=True)
class BrowseConfig:
    data: tyro.conf.Positional[str]
    """A dataset as --data of the other commands takes it: a folder, tars by name, a URL of either."""
    out: Path
    """File to write: .png (strips of frames) or .html (one page with clips that move)."""
    split: str = "train"
    """Which split."""
    per_class: Count = 2
    """Videos of each class, chosen by the seed."""
    classes: tuple[str, ...] = ()
    """Only these classes (default: all that have videos)."""
    model: str | None = None
    """Model whose clip it is; `tubelet models` lists them."""
    recipe: str | None = None
    """Recipe of a training run, for its model, its clip and its augmentation."""
    frames: Count | None = None
    """Frames of a clip (default: the model's own)."""
    stride: Count | None = None
    """Frames of the video from one frame of a clip to the next (default: the model's own)."""
    size: Count | None = None
    """Side of the square frames of a clip, in pixels (default: the model's own)."""
    sampling: Sampling | None = None
    """Frames of a clip: dense or one from each of equal segments (default: the model's own)."""
    augment: bool = False
    """Clips as in training, cropped at random and augmented as the recipe says (without it: the middle of each video,
    as for validation)."""
    draws: Count = 4
    """With --augment, how often each clip is shown side by side, each time augmented anew."""
    seed: Natural = 0
    """Decides which videos are shown and how they are augmented."""
    workers: Natural = 2
    """Processes that decode. 0: this one, which cannot end a decoder that hangs."""
    cache: Path | None = None
    """Folder for shards that are not on this machine (default: $TUBELET_HOME/shards or ~/.cache/tubelet/shards)."""


def browse(config: BrowseConfig) -> str:
    """Writes the picture or the page, and says what is on it. Raises ConfigError and DataError for what cannot be
    used."""
    kind = config.out.suffix.lower()
    if kind not in (".png", ".html"):
        raise ConfigError(f"--out {config.out}: give a file that ends in .png or .html")
    split = ShardedSplit(config.data, config.split, config.cache)
    chosen = _chosen(split, config)
    recipe, clip = _clip(config, len(split.classes))
    draws = config.draws if config.augment else 1
    settings = replace(clip_settings(recipe), repeats=draws)
    indices = sorted({index for videos in chosen.values() for index in videos})
    if config.augment:
        inputs = _inputs(split, recipe, clip)
        made = _augmented(split, settings, indices, inputs, config)
    else:
        made = middles(split, settings, indices, config.workers)
    if kind == ".png":
        write_sheet(chosen, made, draws, config.out)
    else:
        title = f"{split.card.name}, {config.split}"
        how = f"{settings.frames} frames, {settings.sampling}, {settings.size} pixels"
        write_page(title, how, chosen, made, config.out)
    return f"{config.out}: {len(indices)} videos of {len(chosen)} classes"


def _chosen(split: ShardedSplit, config: BrowseConfig) -> dict[str, list[int]]:
    """Video numbers by class. Raises ConfigError for a class that there is not, DataError where nothing is left."""
    for name in config.classes:
        if name not in split.classes:
            near = difflib.get_close_matches(name, split.classes, n=1)
            mend = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"--classes: {name!r} is no class of {config.data}{mend}")
    chosen = {}
    for number, name in enumerate(split.classes):
        if config.classes and name not in config.classes:
            continue
        has = split.labels[:, number] if split.labels.ndim == 2 else split.labels == number
        chosen[name] = _some(np.flatnonzero(has), number, config)
    if not config.classes:
        without = ~split.labels.any(1) if split.labels.ndim == 2 else split.labels < 0
        chosen[_UNLABELLED] = _some(np.flatnonzero(without), len(split.classes), config)
    chosen = {name: videos for name, videos in chosen.items() if videos}
    if not chosen:
        raise DataError(f"{config.data}, {config.split}: has no videos of {', '.join(config.classes) or 'any class'}")
    return chosen


def _some(videos: np.ndarray, number: int, config: BrowseConfig) -> list[int]:
    rng = np.random.default_rng([config.seed, number])
    return sorted(rng.permutation(videos)[: config.per_class].tolist())


def _clip(config: BrowseConfig, classes: int) -> tuple[TrainConfig, ClipSpec]:
    """The configuration of training whose clips are shown, with the clip settled, and how it is normalised."""
    base = read_recipe(config.recipe) if config.recipe else TrainConfig()
    given = {name: getattr(config, name) for name in ("model", "frames", "stride", "size")}
    base = replace(base, model=replace(base.model, **{name: value for name, value in given.items() if value}))
    base = replace(base, data=replace(base.data, sampling=config.sampling or base.data.sampling))
    model = base.model
    if model.model:
        with torch.device("meta"):
            network = build_model(base, max(classes, 1))
        if model.weights is not None and (record := meant_by(model.weights)):
            network.clip = record.clip_for(network.clip)
        spec = clip_of(base, network)
        return with_model_defaults(base, **asdict(Clip.of(spec))), spec
    if not (model.frames and model.stride and model.size):
        raise ConfigError("which clips? Give --model NAME, --recipe FILE, or --frames, --stride and --size")
    sampling = base.data.sampling or "dense"
    mean, deviation = _GREY
    spec = ClipSpec(model.frames, model.stride, model.size, mean, deviation, (1, 1), sampling)
    return with_model_defaults(base, model.frames, model.stride, model.size, sampling), spec


def middles(split: ShardedSplit, settings: ClipSettings, indices: Sequence[int], workers: int) -> Videos:
    """The middle of each video, as it is validated."""
    for index, batch in zip(indices, view_batches(split, settings, (1, 1), indices, 1, workers), strict=True):
        key = split.key(index)
        if batch.faults:
            yield index, Shown(key, [], [], batch.faults[0][2])
        else:
            yield index, Shown(key, [batch.clips[0, 0]], [""])


def _inputs(split: ShardedSplit, recipe: TrainConfig, clip: ClipSpec) -> TrainInput:
    classes = split.classes or [_UNLABELLED]
    mirroring = Mirroring.of(classes, recipe.augment.flip_pairs)
    return TrainInput(clip, torch.device("cpu"), "fp32", recipe.augment, mirroring)


def _augmented(
    split: ShardedSplit, settings: ClipSettings, indices: Sequence[int], inputs: TrainInput, config: BrowseConfig
) -> Videos:
    """A clip of each video as training sees it, `settings.repeats` times."""
    drawn = zip(indices, train_draws(split, settings, indices, config.seed, config.workers), strict=True)
    rng = np.random.default_rng(config.seed)
    while group := list(islice(drawn, _TOGETHER)):
        good = {index: clips for index, clips in group if not isinstance(clips, str)}
        pictures, captions = _trained_on(split, good, inputs, rng) if good else ([], [])
        shown = iter(zip(pictures, captions, strict=True))
        for index, clips in group:
            key = split.key(index)
            yield index, Shown(key, [], [], clips) if isinstance(clips, str) else Shown(key, *next(shown))


def _trained_on(
    split: ShardedSplit, clips: dict[int, torch.Tensor], inputs: TrainInput, rng: np.random.Generator
) -> tuple[list[list[torch.Tensor]], list[list[str]]]:
    """The draws of some videos and what each is labelled then, where it is another label than the video's."""
    draws = len(next(iter(clips.values())))
    labels = torch.from_numpy(split.labels[list(clips)]).repeat_interleave(draws, 0)
    if labels.ndim == 1:
        labels = labels.clamp(min=0)  # of a video without a label nothing is shown
    ready, targets = inputs.train(TrainBatch(torch.cat(list(clips.values())), labels, [], []), rng)
    pictures = inputs.pictures(ready)
    captions = [
        "" if torch.equal(target, label) else _named(target, inputs.mirroring.classes)
        for target, label in zip(targets, labels, strict=True)
    ]
    groups = range(0, len(captions), draws)
    return [list(pictures[at : at + draws]) for at in groups], [captions[at : at + draws] for at in groups]


def _named(target: torch.Tensor, classes: Sequence[str]) -> str:
    """A target in words: a class, or of a mixture the two largest shares."""
    if target.ndim == 0:
        return f"as {classes[int(target)]}"
    shares, numbers = target.float().topk(min(2, len(classes)))
    parts = [(share, classes[n]) for share, n in zip(shares.tolist(), numbers.tolist(), strict=True) if share >= 0.005]
    return " + ".join(f"{share:.0%} {name}" for share, name in parts)
