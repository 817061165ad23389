"""Checkpoints of a run: taken from the device at once, written beside the run by rank 0, put in place in one step."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tubelet.backbones import Model, save_model
from tubelet.datasets import checksum

from ..cluster.distributed import World
from ..errors import RunError
from ..files import sync_files, sync_folder, write_json, write_text
from .finding import named, newest_first
from .state import STATE_FILE, TRAINING_FILE, UNFINISHED, WEIGHTS_FILE, State, read_state, verify
from .training_state import put_training_state, take_training_state


class Checkpoints:
    """The checkpoints of one run. keep: how many of the last, besides the best and, every `keep_hours` (0: none), one
    for good. Every rank calls save and restore; rank 0 writes."""

    def __init__(self, run: Path, world: World, keep: int, keep_hours: float):
        self.folder = run / "checkpoints"
        self.world = world
        self.keep, self.keep_hours = keep, keep_hours
        self.failed: str | None = None  # why the last one could not be written
        self._writing: threading.Thread | None = None
        self._started = time.time()
        if world.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(leftover)

    def save(self, state: State, shown: Model | None, training: dict[str, torch.Tensor]) -> None:
        """Writes a checkpoint while training goes on; one at a time. shown: the model whose weights are shared, a copy
        on the CPU (rank 0's); training: what to go on from."""
        self.finish()
        if shown is None:
            return
        # Not a daemon: a run that ends while one is written waits for it.
        self._writing = threading.Thread(target=self._write_or_tell, args=(shown, training, state))
        self._writing.start()

    def finish(self) -> None:
        """Waits for what is being written."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def _write_or_tell(self, shown: Model, training: dict[str, torch.Tensor], state: State) -> None:
        unfinished = self.folder / f"{UNFINISHED}step-{state.step:08d}"
        try:
            self._write(unfinished, shown, training, state)
            self.failed = None
        except Exception as error:  # safetensors has errors of its own for a full disk
            shutil.rmtree(unfinished, ignore_errors=True)
            self.failed = f"{self.folder}: the checkpoint of step {state.step} could not be written ({error})"
            print(f"warning: {self.failed}. The run goes on; the last one stays", file=sys.stderr, flush=True)

    def _write(self, unfinished: Path, shown: Model, training: dict[str, torch.Tensor], state: State) -> None:
        """It gets its own name only when everything is on the disk: who is killed in between leaves the last one."""
        unfinished.mkdir()
        save_model(shown, unfinished)
        save_file(training, unfinished / TRAINING_FILE)
        names = (WEIGHTS_FILE, "config.json", TRAINING_FILE)
        state = replace(state, written=time.time(), files={name: checksum(unfinished / name) for name in names})
        state = replace(state, kept=self._is_kept(state))
        write_json(unfinished / STATE_FILE, asdict(state))
        sync_files(unfinished)
        final = self.folder / f"step-{state.step:08d}"
        if final.exists():  # of the run that this one goes on from, and of the same step
            shutil.rmtree(final)
        os.rename(unfinished, final)
        sync_folder(self.folder)
        if self._is_best(state):
            write_text(self.folder / "best", final.name)
        write_text(self.folder / "latest", final.name)
        self._prune()

    def _is_kept(self, state: State) -> bool:
        if not self.keep_hours:
            return False
        kept = [other.written for other in map(_state_or_none, newest_first(self.folder)) if other and other.kept]
        return state.written - max(kept, default=self._started) >= 3600 * self.keep_hours

    def _is_best(self, state: State) -> bool:
        if state.metrics is None:
            return False
        best = named(self.folder, "best")
        before = None if best is None else _state_or_none(best)
        return before is None or before.metrics is None or state.metrics["main"] > before.metrics["main"]

    def _prune(self) -> None:
        spared = {named(self.folder, "best"), named(self.folder, "latest")}
        for checkpoint in newest_first(self.folder)[self.keep :]:
            old = _state_or_none(checkpoint)
            if checkpoint not in spared and not (old and old.kept):
                shutil.rmtree(checkpoint)

    def newest_whole(self) -> tuple[Path, State] | None:
        """The newest checkpoint whose files are what was written, passing over damaged ones with a word; the same on
        all ranks. Raises RunError where there are some and none is whole."""
        found: tuple[str, State] | None = None
        faults: list[str] = []
        if self.world.is_main:
            for checkpoint in newest_first(self.folder):
                try:
                    state = read_state(checkpoint)
                    verify(checkpoint, state, *state.files)
                    found = checkpoint.name, state
                    break
                except RunError as error:
                    faults.append(str(error))
                    print(f"warning: {error}: going on from an older one", file=sys.stderr, flush=True)
        found, faults = self.world.gather((found, faults))[0]
        if found is None and faults:
            raise RunError(f"{self.folder}: none of its {len(faults)} checkpoints is whole: {faults[0]}")
        return None if found is None else (self.folder / found[0], found[1])


def _state_or_none(checkpoint: Path) -> State | None:
    """None for a damaged one, which must not keep new ones from being written."""
    try:
        return read_state(checkpoint)
    except RunError:
        return None


def take(engine: Any, average: Any, gathered: Any, world: World) -> tuple[Model | None, dict[str, torch.Tensor]]:
    """What `Checkpoints.save` writes, copied from the device. average: of the weights, or None; gathered: a context in
    which this rank has all of them. Every rank calls it."""
    training = take_training_state(engine, world.is_main)
    with ExitStack() as stack:
        stack.enter_context(gathered)
        if average is not None:
            stack.enter_context(average.in_place())
        shown = _on_cpu(engine.module) if world.is_main else None
    return shown, training


def _on_cpu(model: Model) -> Model:
    """A copy that training does not change."""
    from tubelet.backbones import create_model

    with torch.device("meta"):
        copy = create_model(**model.config)
    state = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
    copy.load_state_dict(state, assign=True)
    copy.clip = model.clip
    return copy


def restore(engine: Any, average: Any, checkpoint: Path, state: State, classes: list[str]) -> None:
    """Puts weights, optimiser and average of `checkpoint` into `engine`, however many processes wrote it at whatever
    stage. Raises RunError when they do not fit, or when the data has other classes now."""
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
    shown = load_file(checkpoint / WEIGHTS_FILE)
    put_training_state(engine, load_file(checkpoint / TRAINING_FILE))
    parameters = dict(engine.module.named_parameters())
    for name, buffer in engine.module.named_buffers():
        if name in shown:
            buffer.copy_(shown[name])
    if average is not None:
        average.load({name: shown[name] for name in parameters})
    else:
        with torch.no_grad():
            for name, parameter in parameters.items():
                if not parameter.requires_grad:
                    parameter.copy_(shown[name])
