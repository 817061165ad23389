"""The training run, from top to bottom: join, data, model, engine, then steps, evaluations and checkpoints."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tubelet.backbones import load_weights, meant_by
from tubelet.datasets import ShardedSplit, start_forkserver, train_batches

from ..checkpoints.checkpoint import Clip, State
from ..cluster.distributed import join
from ..config import TrainConfig, checked, with_model_defaults
from ..errors import RunError
from ..evaluation.evaluate import score
from ..inputs.clips import TrainInput
from ..inputs.mirroring import Mirroring
from ..pictures.curves import draw_clips, draw_curves
from .engine import set_learning_rate, start_engine, step
from .faults import Faults, read_quarantine
from .meter import Meter
from .schedule import learning_rate
from .setup import build_model, clip_of, clip_settings, open_run, order_of, start_log, step_seed


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

    checkpoints = open_run(run, config, world)
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
    log = start_log(config, world, order, state, val_split)
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


def _due(epoch: int, every: int, epochs: int) -> bool:
    return epoch % every == 0 or epoch >= epochs
