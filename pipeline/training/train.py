"""The training run, from top to bottom: join, data, model, engine, then steps, evaluations and checkpoints."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tubelet.backbones import load_weights, meant_by
from tubelet.datasets import ShardedSplit, start_forkserver, train_batches

from ..checkpoints.saving import restore, take
from ..checkpoints.state import Clip, State
from ..cluster.distributed import join, naming_lost_ranks
from ..cluster.preflight import preflight
from ..cluster.stopping import Stopping
from ..cluster.watchdog import Watchdog
from ..config import TrainConfig, as_yaml, checked, with_model_defaults
from ..errors import RunError, Stopped
from ..evaluation.scoring import Scorer
from ..files import write_json
from ..inputs.clips import TrainInput
from ..inputs.mirroring import Mirroring
from ..pictures.curves import draw_clips, draw_curves
from .anomalies import Anomalies
from .batchnorm import convert_norms
from .ema import Average
from .engine import deepspeed_json, set_learning_rate, start_engine, step, whole_parameters
from .faults import Faults, read_quarantine
from .groups import freeze, set_training
from .losses import build_loss, hits, shown_label
from .meter import Meter
from .profiling import Profile
from .schedule import learning_rate, peak_rate
from .setup import (
    build_model,
    clip_of,
    clip_settings,
    due,
    flops_of,
    open_run,
    open_split,
    order_of,
    settle_statistics,
    start_log,
    step_seed,
)
from .summary import said, summarise


@naming_lost_ranks()
def train(config: TrainConfig) -> Path:
    """Trains as `config` says, on all processes of the launcher. Returns the folder of the run:

        config.yaml, deepspeed.json, environment.json     what ran, on what
        log.jsonl, tensorboard/           loss, accuracy, learning rate, gradient norm, clips/s, data wait, step time
        clips.png, curves.png             clips as the model sees them, the curves of the run
        summary.json                      what bound the run, and its slowest process
        quarantine.jsonl                  the bad videos that were met, if any, and why
        nonfinite.jsonl                   the videos of steps whose loss was no number, if any
        checkpoints/                      see pipeline/checkpoints/state.py

    Raises Stopped where it was asked to end and has saved; ConfigError, RunError, and whatever data, models and weights
    raise for what cannot be used.
    """
    with ExitStack() as ends:
        return _train(checked(config), ends)


def _train(config: TrainConfig, ends: ExitStack) -> Path:
    """`ends` closes what outlives a step, however the run ends: it may be called in a process that goes on."""
    if config.data.workers != 0:
        start_forkserver()
    quarantined = {} if config.data.quarantine is None else read_quarantine(config.data.quarantine)
    run: Path = config.run.out  # type: ignore[assignment]  # checked
    optim, system, model_config = config.optim, config.system, config.model
    split = open_split(config, "train")
    mirroring = Mirroring.of(split.classes, config.augment.flip_pairs)
    evaluated = "val" in split.card.splits and config.run.eval_every
    val_split: ShardedSplit | None = open_split(config, "val") if evaluated else None
    model = build_model(config, len(split.classes))
    loaded = None if model_config.weights is None else load_weights(model, model_config.weights)
    if loaded is not None and (record := meant_by(model_config.weights)):
        model.clip = record.clip_for(model.clip)
    config = with_model_defaults(config, **clip_of(config, model))
    trained = freeze(model, optim.tune)

    world = join(system.timeout, always=True)
    agreed = preflight(world, as_yaml(config), split.card.fingerprint())
    order = order_of(config, split, world)
    clips_at_a_time = order.batch * config.data.repeats
    checkpoints = open_run(run, config, world)
    watchdog = ends.enter_context(Watchdog(world, system.timeout, run))
    stopping = ends.enter_context(Stopping(world))
    flops, parameters = flops_of(model)
    model = convert_norms(model.to(world.device), system.batch_norm, world)
    deepspeed = deepspeed_json(optim, system, clips_at_a_time, parameters)
    engine = start_engine(model, optim, system, deepspeed, world)
    average = Average(engine.module, optim.ema) if optim.ema else None
    clip = Clip(**clip_of(config, model))
    state = State(0, 0, 0, model.config, split.classes, clip, multilabel=split.card.multilabel)
    if config.run.resume == "auto" and (found := checkpoints.newest_whole()) is not None:
        restore(engine, average, *found, split.classes)
        state = replace(state, step=found[1].step, epoch=found[1].epoch, consumed=found[1].consumed)
    log = start_log(config, world, order, state, val_split)
    if log is not None:
        write_json(run / "deepspeed.json", deepspeed)
        mirrored = str(mirroring) if config.augment.flip else ""
        for line in filter(None, (agreed, trained if optim.tune != "full" else "", str(loaded or ""), mirrored)):
            log.say(line)

    settings = clip_settings(config)
    workers = world.default_workers() if config.data.workers is None else config.data.workers
    batches = train_batches(split, settings, order, state.position, world.rank, workers, config.data.bad_samples)
    ends.callback(batches.close)
    faults = Faults(run, config.data.max_faults, world.is_main)
    batches.bar({key: faults.barred_from(epoch) for key, epoch in faults.known.items()})
    not_tried = batches.bar(dict.fromkeys(quarantined, 0))
    if log is not None and quarantined:
        log.say(f"{config.data.quarantine}: {not_tried} of its {len(quarantined)} videos are here, and not tried")
    inputs = TrainInput(model.clip, world.device, system.precision, config.augment, mirroring)
    criterion = build_loss(optim)
    peak = peak_rate(optim, order.step_samples * config.data.repeats)
    meter = Meter(world, faults, order.batch, flops, system.precision)
    anomalies = Anomalies(run, split, order, config.run.max_nonfinite, world.is_main)
    profile = Profile(run, config.run.profile and world.is_main)
    set_training(engine.module, system.batch_norm == "frozen")
    while state.epoch < optim.epochs:
        progress = state.epoch + state.consumed / len(split)
        rate = learning_rate(progress, optim, peak)
        set_learning_rate(engine, rate)
        # What is random in a step follows from the step, so a run that goes on from a checkpoint repeats it exactly.
        seed = step_seed(config.run.seed, state.step, world.rank)
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        for _ in range(optim.accumulate):
            batch = meter.waiting_for(batches)
            clips, targets = inputs.train(batch, rng)
            if log is not None and not (run / "clips.png").exists():
                names = [split.classes[i] for i in shown_label(targets)]
                draw_clips(inputs.pictures(clips), names, run / "clips.png")
            with meter.computing():
                logits = engine(clips)
                loss = criterion(logits, targets)
            engine.backward(loss)
            norm = step(engine, optim, system)
            meter.add(loss.detach(), hits(logits.detach(), targets), batch, len(clips))
        meter.step(state.position, norm)
        if average is not None:
            average.update(state.step + 1)

        epoch = state.epoch
        position = order.after(state.position)
        state = replace(state, step=state.step + 1, epoch=position.epoch, consumed=position.consumed, metrics=None)
        watchdog.beat(f"step {state.step + 1}")
        profile.step()
        stops = stopping.agreed()
        epoch_ends = state.epoch > epoch
        saves = (
            stops
            or (epoch_ends and due(state.epoch, config.run.save_every, optim.epochs))
            or (config.run.save_steps > 0 and state.step % config.run.save_steps == 0)
        )
        scores = epoch_ends and val_split is not None and due(state.epoch, config.run.eval_every, optim.epochs)
        if log is not None:
            log.advance()
        if state.step % config.run.log_every == 0 or epoch_ends or saves:
            reading = meter.read(rate, norm, epoch)
            batches.bar(reading.bad)
            spikes = anomalies.take(reading.losses, state.step)
            if log is not None:
                log.write(state.step, "train", epoch=progress, skipped_steps=anomalies.passed, **reading.line)
                for spike in spikes:
                    log.spike(spike)
        if scores or saves:
            with watchdog.patient("settling BatchNorm's statistics"):
                settle_statistics(engine.module, config, split, order, inputs, world, average)
        if scores:
            assert val_split is not None
            with watchdog.patient("the evaluation"), average.in_place() if average else nullcontext():
                metrics = Scorer(
                    engine.module, val_split, settings, (1, 1), world, 2 * clips_at_a_time, workers, system.precision
                ).metrics()
            state = replace(state, metrics=metrics.as_dict())
            if log is not None:
                log.write(state.step, "eval", epoch=state.epoch, **metrics.as_dict())
                log.say(f"epoch {state.epoch}/{optim.epochs}: {metrics}")
        if saves:
            with watchdog.patient("the checkpoint"):
                shown, training = take(engine, average, whole_parameters(engine), world)
                checkpoints.save(state, shown, training)
        if scores or saves:
            meter.restart()
        if stops:
            break

    batches.close()
    with watchdog.patient("the end"):
        summary = summarise(meter, parameters, world)
        checkpoints.finish()
        failed = world.gather(checkpoints.failed)[0]
    if log is not None:
        if faults.known:
            log.say(f"{len(faults.known)} videos could not be read; {faults.file} names each and the cause")
        for reason, count in meter.slow.items():
            log.say(f"{count} clips of this process were decoded in a slower way: {reason}")
        for line in filter(None, (said(summary), profile.close())):
            log.say(line)
        write_json(run / "summary.json", summary)
        log.close()
        draw_curves(run, run / "curves.png")
    if failed is not None:
        raise RunError(f"{failed}. Make room, and go on with --resume auto")
    if state.epoch < optim.epochs:
        raise Stopped(f"asked to end, the run has saved step {state.step} in {run}: --resume auto goes on")
    if log is not None:
        print(f"the run is in {run}: clips.png, curves.png, log.jsonl, checkpoints/", flush=True)
    return run
