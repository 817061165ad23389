"""The training run, from top to bottom: join, data, model, engine, then steps, evaluations and checkpoints."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tubelet.backbones import Model, UnknownModel, create_model, load_weights, meant_by
from tubelet.datasets import (
    Balance,
    ClipSettings,
    ShardedSplit,
    TrainBatch,
    TrainBatches,
    TrainOrder,
    start_forkserver,
    train_batches,
)

from .checkpoint import Checkpoints, Clip, State
from .config import TrainConfig, as_yaml, checked, with_model_defaults
from .distributed import World, join
from .engine import set_learning_rate, start_engine, step
from .environment import describe
from .errors import ConfigError, RunError
from .evaluate import score
from .faults import QUARANTINE_FILE, Faults, read_quarantine
from .files import write_json, write_text
from .inputs import TrainInput
from .logs import RunLog
from .mirroring import Mirroring
from .pictures import draw_clips, draw_curves
from .schedule import learning_rate


def train(config: TrainConfig) -> Path:
    """Trains as `config` says, on all processes of the launcher. Returns the folder of the run:

        config.yaml, environment.json     what ran, on what
        log.jsonl, tensorboard/           loss, accuracy, learning rate, gradient norm, clips/s, data wait, step time
        clips.png, curves.png             clips as the model sees them, the curves of the run
        quarantine.jsonl                  the bad videos that were met, if any, and why
        checkpoints/                      see pipeline/checkpoint.py

    Raises ConfigError, RunError, and whatever data, models and weights raise for what cannot be used.
    """
    config = checked(config)
    if config.data.workers != 0:
        start_forkserver()
    quarantined = {} if config.data.quarantine is None else read_quarantine(config.data.quarantine)
    run: Path = config.run.out  # type: ignore[assignment]  # checked
    split = ShardedSplit(config.data.data, "train", config.data.cache)  # type: ignore[arg-type]  # checked
    split.require_one_label()
    mirroring = Mirroring.of(split.classes, config.augment.flip_pairs)
    evaluated = "val" in split.card.splits and config.run.eval_every
    val_split = ShardedSplit(split.data, "val", config.data.cache) if evaluated else None
    if val_split is not None:
        val_split.require_one_label()
    model = build_model(config, len(split.classes))
    loaded = None if config.model.weights is None else load_weights(model, config.model.weights)
    if loaded is not None and (record := meant_by(config.model.weights)):
        model.clip = record.clip_for(model.clip)
    config = with_model_defaults(config, **clip_of(config, model))
    world = join(config.system.timeout, always=True)
    order = order_of(config, split, world)
    clips_at_a_time = order.batch * config.data.repeats

    checkpoints = _open_run(run, config, world)
    engine = start_engine(model.to(world.device), config.optim, config.system, clips_at_a_time, world)
    state = State(
        step=0,
        epoch=0,
        consumed=0,
        world=world.size,
        zero_stage=config.system.zero_stage,
        model=model.config,
        classes=split.classes,
        clip=Clip(**clip_of(config, model)),
    )
    if config.run.resume == "auto" and (latest := checkpoints.latest()) is not None:
        resumed = checkpoints.restore(engine, latest, config.system.zero_stage, split.classes)
        state = replace(state, step=resumed.step, epoch=resumed.epoch, consumed=resumed.consumed)
    log = _start_log(config, world, order, state, val_split)
    if log is not None and loaded is not None:
        log.say(str(loaded))
    if log is not None and config.augment.flip and (said := str(mirroring)):
        log.say(said)

    settings = clip_settings(config)
    workers = world.default_workers() if config.data.workers is None else config.data.workers
    batches = train_batches(split, settings, order, state.position, world.rank, workers, config.data.bad_samples)
    faults = Faults(run, config.data.max_faults, world.is_main)
    batches.bar({key: faults.barred_from(epoch) for key, epoch in faults.known.items()})
    not_tried = batches.bar(dict.fromkeys(quarantined, 0))
    if log is not None and quarantined:
        log.say(f"{config.data.quarantine}: {not_tried} of its {len(quarantined)} videos are here, and not tried")
    inputs = TrainInput(model.clip, world.device, config.system.precision, config.augment, mirroring)
    criterion = nn.CrossEntropyLoss(label_smoothing=config.optim.label_smoothing)
    meter = Meter(world, faults, order.batch)
    while state.epoch < config.optim.epochs:
        progress = state.epoch + state.consumed / len(split)
        rate = learning_rate(
            progress,
            epochs=config.optim.epochs,
            peak=config.optim.lr,
            warmup_epochs=config.optim.warmup_epochs,
            minimum=config.optim.min_lr,
        )
        set_learning_rate(engine, rate)
        # What is random in a step follows from the step, so a run that goes on from a checkpoint repeats it exactly.
        seed = step_seed(config.run.seed, state.step, world.rank)
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        for _ in range(config.optim.accumulate):
            batch = meter.waiting_for(batches)
            clips, targets = inputs.train(batch, rng)
            labels = targets if targets.ndim == 1 else targets.argmax(-1)  # of a mixed clip the one it has most of
            if log is not None and not (run / "clips.png").exists():
                draw_clips(inputs.pictures(clips), [split.classes[i] for i in labels], run / "clips.png")
            logits = engine(clips)
            loss = criterion(logits, targets)
            engine.backward(loss)
            norm = step(engine, config.optim, config.system)
            meter.add(loss.detach(), logits.detach(), labels, batch)

        epoch = state.epoch
        position = order.after(state.position)
        state = replace(state, step=state.step + 1, epoch=position.epoch, consumed=position.consumed, metrics=None)
        epoch_ends = state.epoch > epoch
        saves = (epoch_ends and _due(state.epoch, config.run.save_every, config.optim.epochs)) or (
            config.run.save_steps > 0 and state.step % config.run.save_steps == 0
        )
        if log is not None:
            log.advance()
        if state.step % config.run.log_every == 0 or epoch_ends or saves:
            line, bad = meter.read(engine, rate, norm, epoch)
            batches.bar(bad)
            if log is not None:
                log.write(state.step, "train", epoch=progress, **line)
            if not math.isfinite(line["loss"]):
                raise RunError(
                    f"the loss is {line['loss']} at step {state.step}, and a checkpoint of it would be of no use. "
                    f"Lower --lr ({config.optim.lr:g}) or lengthen --warmup-epochs, and --resume auto"
                )
        if epoch_ends and val_split is not None and _due(state.epoch, config.run.eval_every, config.optim.epochs):
            world.share_statistics(engine.module)
            metrics = score(
                engine.module, val_split, settings, (1, 1), world, 2 * clips_at_a_time, workers, config.system.precision
            )
            state = replace(state, metrics=asdict(metrics))
            meter.restart()
            if log is not None:
                log.write(state.step, "eval", epoch=state.epoch, **asdict(metrics))
                log.say(f"epoch {state.epoch}/{config.optim.epochs}: {metrics}")
        if saves:
            world.share_statistics(engine.module)
            checkpoints.save(engine, state)
            meter.restart()

    batches.close()
    if log is not None:
        if faults.known:
            log.say(f"{len(faults.known)} videos could not be read; {faults.file} names each and the cause")
        for reason, count in meter.slow.items():
            log.say(f"{count} clips of this process were decoded in a slower way: {reason}")
        log.close()
        draw_curves(run, run / "curves.png")
        print(f"the run is in {run}: clips.png, curves.png, log.jsonl, checkpoints/", flush=True)
    return run


def step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def _due(epoch: int, every: int, epochs: int) -> bool:
    return epoch % every == 0 or epoch >= epochs


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


def _open_run(run: Path, config: TrainConfig, world: World) -> Checkpoints:
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


def _start_log(
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


class Meter:
    """Means since the last reading. Nothing in `add` waits for the device; `read` does."""

    def __init__(self, world: World, faults: Faults, videos: int):
        self.world = world
        self.faults = faults
        self.videos = videos  # of a batch
        self.new_faults: list[tuple[str, str]] = []
        self.slow: Counter[str] = Counter()  # clips of this process that were decoded in a slower way, by reason
        self.sums = torch.zeros(2, dtype=torch.float64, device=world.device)  # loss * clips, hits
        self.clips = 0
        self.batches = 0
        self.waited = 0.0
        self.paused = 0.0
        self.started = time.perf_counter()

    def waiting_for(self, batches: TrainBatches) -> TrainBatch:
        """The next batch; the time it is waited for counts as data wait."""
        began = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - began
        return batch

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, batch: TrainBatch) -> None:
        hits = (logits.argmax(-1) == labels).sum()
        self.sums += torch.stack([loss * len(labels), hits])
        self.clips += len(labels)
        self.new_faults += batch.faults
        self.slow.update(batch.slow)
        self.batches += 1

    def restart(self) -> None:
        """Leaves out the time since the last reading, which was not spent on training."""
        self.started = time.perf_counter()
        self.waited = 0.0

    def read(
        self, engine: Any, rate: float, norm: torch.Tensor | float | None, epoch: int
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """The line of the log, over all ranks, and a new start, with the bad videos that are new and the epoch from
        which on they are barred. Every rank calls it, at the latest at the end of each epoch. Raises RunError where too
        many videos are bad."""
        counts = torch.tensor([self.clips, len(self.new_faults)], device=self.sums.device)
        sums = torch.cat([self.sums, counts])
        if self.world.size > 1:
            torch.distributed.all_reduce(sums)
        loss, hits, clips, faults = sums.tolist()
        everywhere = self.world.gather(self.new_faults) if faults else []
        new = [fault for some in everywhere for fault in some]
        bad = self.faults.take(new, epoch, self.batches * self.videos * self.world.size)
        elapsed = time.perf_counter() - self.started
        line = {
            "loss": loss / clips,
            "top1": hits / clips,
            "lr": rate,
            "grad_norm": None if norm is None else float(norm),
            "clips_per_s": clips / elapsed,
            "step_ms": 1000 * elapsed * engine.gradient_accumulation_steps() / self.batches,
            "data_wait": self.waited / elapsed,
            "skipped_steps": engine.skipped_steps,
            "faults": dict(self.faults.by_cause),
            "slow_decodes": dict(self.slow),
        }
        self.sums.zero_()
        self.clips = self.batches = 0
        self.new_faults = []
        self.restart()
        return line, bad
