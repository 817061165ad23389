"""What a run is made of, from its configuration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tubelet.backbones import Model, UnknownModel, create_model
from tubelet.datasets import Balance, ClipSettings, ShardedSplit, TrainOrder

from ..checkpoints.checkpoint import Checkpoints, State
from ..cluster.distributed import World
from ..cluster.environment import describe
from ..config import TrainConfig, as_yaml
from ..errors import ConfigError, RunError
from ..files import write_json, write_text
from .faults import QUARANTINE_FILE
from .logs import RunLog


def step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


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


def clip_of(config: TrainConfig, model: Model) -> dict[str, Any]:
    """The clip of a run: the model's own, but for what the configuration says otherwise."""
    clip = model.clip
    return {
        "frames": clip.frames,
        "stride": config.model.stride or clip.stride,
        "size": clip.size,
        "sampling": config.data.sampling or clip.sampling,
    }


def order_of(config: TrainConfig, split: ShardedSplit, world: World) -> TrainOrder:
    """The order of a run's samples, one sample for all crops of a clip."""
    data = config.data
    balance = Balance(split.labels, data.balance) if data.balance else None
    videos = data.batch_size // data.repeats
    return TrainOrder.fitting(len(split), config.run.seed, videos, world.size, config.optim.accumulate, balance)


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
    taken = (run / "checkpoints" / "latest").exists()
    world.barrier()
    if taken and config.run.resume == "no":
        raise RunError(f"{run}: already holds a run. Add --resume auto to go on with it, or choose another --out")
    checkpoints = Checkpoints(run, world, config.run.keep)
    if world.is_main:
        write_text(run / "config.yaml", as_yaml(config))
        write_json(run / "environment.json", describe())
        if not taken:  # a run that died before its first checkpoint begins again
            for leftover in ("log.jsonl", QUARANTINE_FILE):
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
