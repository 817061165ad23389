"""Checkpoints: written beside the last one and put in place in one step, pruned, found again.

RUN/checkpoints/latest, best                     names of the last and of the best checkpoint
RUN/checkpoints/step-00000120/checkpoint.json    where the run stood, classes, clip, metrics
RUN/checkpoints/step-00000120/model.safetensors  plain weights, and config.json: for create_model and load_weights
RUN/checkpoints/step-00000120/*.pt               what DeepSpeed needs to go on. It unpickles them: load only your own
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tubelet.backbones import Model, load_model, save_model
from tubelet.datasets import Position

from ..cluster.distributed import World
from ..errors import RunError
from ..files import sync_files, sync_folder, write_json, write_text

STATE_FILE = "checkpoint.json"
WEIGHTS_FILE = "model.safetensors"
_UNFINISHED = "unfinished-"


@dataclass(frozen=True)
class Clip:
    """What a model was trained on, so that evaluation and embedding follow it: frames, stride, size in pixels."""

    frames: int
    stride: int
    size: int
    sampling: str


@dataclass(frozen=True)
class State:
    """Where a run stands after `step` optimiser steps, and what its weights are good for.

    epoch, consumed: samples of the epoch already trained on; world, zero_stage: what the optimiser's files are divided
    by; classes in label order; metrics: of the evaluation at this step, None without one.
    """

    step: int
    epoch: int
    consumed: int
    world: int
    zero_stage: int
    model: dict[str, Any]
    classes: list[str]
    clip: Clip
    metrics: dict[str, Any] | None = None

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.consumed)


def read_state(checkpoint: Path) -> State:
    """Raises RunError for a checkpoint without a readable state."""
    file = checkpoint / STATE_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return State(**{**content, "clip": Clip(**content["clip"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{file}: is missing or damaged ({error}). Choose another checkpoint of the run with --checkpoint"
        ) from error


class Checkpoints:
    """The checkpoints of one run. Every rank calls save and restore; rank 0 does what is not DeepSpeed's."""

    def __init__(self, run: Path, world: World, keep: int):
        self.folder = run / "checkpoints"
        self.world = world
        self.keep = keep
        if world.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(leftover)

    def latest(self) -> Path | None:
        return _named(self.folder, "latest")

    def save(self, engine: Any, state: State) -> Path:
        """Writes a checkpoint, makes it the latest, the best if it is, and removes old ones. Returns its folder.

        DeepSpeed names a checkpoint the latest before all ranks have written theirs; so it writes under another name,
        and the checkpoint gets its own only when everything is on the disk.
        """
        name = f"step-{state.step:08d}"
        unfinished = f"{_UNFINISHED}{name}"
        engine.save_checkpoint(str(self.folder), tag=unfinished, save_latest=False)
        self.world.barrier()
        final = self.folder / name
        if self.world.is_main:
            save_model(engine.module, self.folder / unfinished)
            write_json(self.folder / unfinished / STATE_FILE, asdict(state))
            sync_files(self.folder / unfinished)
            if final.exists():  # written by the run that this one goes on from, and of the same step
                shutil.rmtree(final)
            os.rename(self.folder / unfinished, final)
            sync_folder(self.folder)
            if self._is_best(state):
                write_text(self.folder / "best", name)
            write_text(self.folder / "latest", name)
            self._prune()
        self.world.barrier()
        return final

    def _is_best(self, state: State) -> bool:
        best = _named(self.folder, "best")
        if state.metrics is None:
            return False
        return best is None or state.metrics["video_top1"] > (read_state(best).metrics or {}).get("video_top1", -1.0)

    def _prune(self) -> None:
        names = sorted(path.name for path in self.folder.glob("step-*"))
        spared = {path.name for path in (_named(self.folder, "best"), self.latest()) if path is not None}
        for name in names[: -self.keep]:
            if name not in spared:
                shutil.rmtree(self.folder / name)

    def restore(self, engine: Any, checkpoint: Path, zero_stage: int, classes: list[str]) -> State:
        """Puts parameters and optimiser of `checkpoint` into `engine`. Raises RunError when they do not fit it, or when
        the data has other classes now."""
        state = read_state(checkpoint)
        model = engine.module.config
        if state.model != model:
            differing = sorted(k for k in {*state.model, *model} if state.model.get(k) != model.get(k))
            raise RunError(
                f"{checkpoint}: is of another model: "
                + ", ".join(f"{k} was {state.model.get(k)} and is now {model.get(k)}" for k in differing)
                + ". Resume with the arguments it was started with, or train to another --out"
            )
        if state.classes != classes:
            raise RunError(
                f"{checkpoint}: was trained on other classes than the data has now. Resume with the data it was "
                "started with, or train to another --out"
            )
        if (state.world, state.zero_stage) != (self.world.size, zero_stage) and (state.zero_stage or zero_stage):
            raise RunError(
                f"{checkpoint}: was saved by {state.world} processes under ZeRO {state.zero_stage}, and its optimiser "
                f"states are divided so; this run has {self.world.size} under ZeRO {zero_stage}. Resume with the "
                f"same, or start a new run from its weights: --weights {checkpoint / WEIGHTS_FILE} --out ANOTHER"
            )
        loaded, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
        if loaded is None:
            raise RunError(f"{checkpoint}: DeepSpeed's files are missing. Resume from another checkpoint")
        return state


def _named(folder: Path, pointer: str) -> Path | None:
    file = folder / pointer
    if not file.is_file():
        return None
    checkpoint = folder / file.read_text(encoding="utf-8").strip()
    return checkpoint if (checkpoint / STATE_FILE).is_file() else None


def find_checkpoint(path: Path | None) -> Path:
    """The checkpoint that `path` means: itself, or the best one of a run (the last, where none was evaluated).

    Raises RunError when there is none.
    """
    if path is None:
        raise RunError("no checkpoint given. --checkpoint takes the --out of a training run, or one checkpoint in it")
    if (path / STATE_FILE).is_file() and (path / WEIGHTS_FILE).is_file():
        return path
    found = _named(path / "checkpoints", "best") or _named(path / "checkpoints", "latest")
    if found is None:
        what = "holds no finished checkpoint" if path.is_dir() else "no such folder"
        raise RunError(f"{path}: {what}. --checkpoint takes the --out of a training run, or one checkpoint in it")
    return found


def load_trained(path: Path | None) -> tuple[Model, State, Path]:
    """The trained model that `path` means, in evaluation mode on the CPU, its state, its checkpoint's folder."""
    checkpoint = find_checkpoint(path)
    return load_model(checkpoint).eval(), read_state(checkpoint), checkpoint
