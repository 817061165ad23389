"""What a run is made of, from its configuration."""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from tubelet.backbones import ClipSpec, Model, UnknownModel, count_cost, create_model
from tubelet.datasets import Balance, ClipSettings, Position, ShardedSplit, TrainOrder, train_batches

from ..checkpoints.finding import newest_first
from ..checkpoints.saving import Checkpoints
from ..checkpoints.state import State
from ..cluster.distributed import World
from ..cluster.environment import describe
from ..config import TrainConfig, as_yaml, parse_views
from ..errors import ConfigError, RunError
from ..files import write_json, write_text
from ..inputs.clips import TrainInput, autocast
from . import anomalies
from .batchnorm import retake_statistics, share_statistics
from .ema import Average
from .faults import QUARANTINE_FILE
from .logs import RunLog


def step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def due(epoch: int, every: int, epochs: int) -> bool:
    return epoch % every == 0 or epoch >= epochs


def open_split(config: TrainConfig, name: str) -> ShardedSplit:
    """Raises DataError where its labels are not what the loss is for."""
    split = ShardedSplit(config.data.data, name, config.data.cache)  # type: ignore[arg-type]  # checked
    if config.optim.loss != "bce" or not split.card.multilabel:
        split.require_one_label()
    return split


def flops_of(model: Model) -> tuple[float, int]:
    """(operations of a clip's forward and backward pass, parameters): the backward pass takes two products for each of
    the forward pass, and a multiply-accumulate is two operations."""
    clip = model.clip
    parameters, macs = count_cost(model, (1, 3, clip.frames, clip.size, clip.size))
    return 6.0 * macs, parameters


def settle_statistics(
    model: Model,
    config: TrainConfig,
    split: ShardedSplit,
    order: TrainOrder,
    inputs: TrainInput,
    world: World,
    average: Average | None,
) -> None:
    """BatchNorm's statistics as the model is shared with: the same on all ranks, taken anew where `precise_bn` says so,
    under the averaged weights if there are any."""
    if count := config.system.precise_bn:
        batches = train_batches(split, clip_settings(config), order, Position(0, 0), world.rank, workers=0)
        rng = np.random.default_rng(config.run.seed)
        clips = (inputs.train(next(batches), rng)[0] for _ in range(count))
        with (
            average.in_place() if average is not None else nullcontext(),
            autocast(world.device, config.system.precision),
        ):
            retake_statistics(model, clips)
        batches.close()
    share_statistics(model, world)


def build_model(config: TrainConfig, classes: int) -> Model:
    """The model of a run, as initialised by its seed. Raises ConfigError for arguments that it does not take."""
    torch.manual_seed(config.run.seed)
    name = config.model.model
    try:
        model = create_model(
            name, num_classes=classes, frames=config.model.frames, size=config.model.size, **config.model.model_args
        )
    except UnknownModel:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--model {name} cannot be built so: {error}") from error
    if config.system.grad_checkpointing:
        model.set_grad_checkpointing(True)
    return model


def clip_of(config: TrainConfig, model: Model) -> ClipSpec:
    """The clip of a run: the model's own, but for what the configuration says otherwise."""
    clip, run = model.clip, config.run
    return replace(
        clip,
        stride=config.model.stride or clip.stride,
        sampling=config.data.sampling or clip.sampling,
        views=parse_views(run.views) if run.views else clip.views,
        view_size=run.view_size or clip.view_size,
    )


def order_of(config: TrainConfig, split: ShardedSplit, world: World) -> TrainOrder:
    """The order of a run's samples, one sample for all crops of a clip."""
    videos, balance = config.data.batch_size // config.data.repeats, balance_of(config, split)
    return TrainOrder.fitting(len(split), config.run.seed, videos, world.size, config.optim.accumulate, balance)


def balance_of(config: TrainConfig, split: ShardedSplit) -> Balance | None:
    """How often each class comes, None for as often as it has videos. Raises ConfigError for classes that the data has
    not, or whose videos have several labels."""
    power, weights = config.data.balance, config.data.class_weights
    if not power and not weights:
        return None
    if split.card.multilabel:
        raise ConfigError("--balance and --class-weights are for videos of one class each; these have several labels")
    numbers = {name: number for number, name in enumerate(split.classes)}
    if unknown := [name for name in weights if name not in numbers]:
        near = difflib.get_close_matches(unknown[0], numbers, 3) or list(numbers)[:3]
        raise ConfigError(f"--class-weights: the data has no class {unknown[0]!r}, but {', '.join(map(repr, near))}")
    factors = np.ones(len(numbers))
    for name, factor in weights.items():
        factors[numbers[name]] = factor
    try:
        return Balance(split.labels, power, factors)
    except ValueError as error:
        raise ConfigError(f"--class-weights: {error}") from error


def clip_settings(config: TrainConfig) -> ClipSettings:
    """What the loader makes of each video, from a configuration whose clip is settled."""
    model, data = config.model, config.data
    return ClipSettings(
        model.frames,  # type: ignore[arg-type]
        model.stride,  # type: ignore[arg-type]
        model.size,  # type: ignore[arg-type]
        data.sampling,  # type: ignore[arg-type]
        crop=data.crop,
        crop_scale=data.crop_scale,
        crop_ratio=data.crop_ratio,
        crop_jitter=data.crop_jitter,
        repeats=data.repeats,
        decoder=data.decoder,
        deadline=data.clip_deadline,
    )


def open_run(run: Path, config: TrainConfig, world: World) -> Checkpoints:
    """The run's folder and what says how it was started. Raises RunError when it holds another run already."""
    if run.exists() and not run.is_dir():
        raise ConfigError(f"{run}: is a file. Give --out a folder")
    taken = bool(newest_first(run / "checkpoints"))
    world.barrier()
    if taken and config.run.resume == "no":
        raise RunError(f"{run}: already holds a run. Add --resume auto to go on with it, or choose another --out")
    checkpoints = Checkpoints(run, world, config.run.keep, config.run.keep_hours)
    if world.is_main:
        write_text(run / "config.yaml", as_yaml(config))
        write_json(run / "environment.json", describe())
        if not taken:  # a run that died before its first checkpoint begins again
            for leftover in ("log.jsonl", QUARANTINE_FILE, anomalies.FILE):
                (run / leftover).unlink(missing_ok=True)
    world.barrier()
    return checkpoints


def start_log(
    config: TrainConfig, world: World, order: TrainOrder, state: State, val_split: ShardedSplit | None
) -> RunLog | None:
    """Rank 0's log, after it has said what is about to happen; None on the other ranks."""
    if not world.is_main:
        return None
    total = order.steps_per_epoch * config.optim.epochs
    log = RunLog(config.run.out, state.step, total, asdict(config), config.run.wandb)  # type: ignore[arg-type]
    repeats = config.data.repeats
    clips_a_step = order.step_samples * repeats
    if (batch := order.batch * repeats) < config.data.batch_size:
        log.say(f"batches of {batch} instead of {config.data.batch_size}: there are only {order.count} videos")
    left_out = order.count - order.steps_per_epoch * order.step_samples
    log.say(
        f"{config.model.model}: {order.count} training videos, {len(val_split) if val_split else 0} for validation, "
        f"{world.size} x {world.device.type}, {order.steps_per_epoch} steps of {clips_a_step} clips an epoch"
        + (f", {left_out} videos sit each epoch out" if left_out else "")
        + (f"; going on at step {state.step}" if state.step else "")
    )
    return log
