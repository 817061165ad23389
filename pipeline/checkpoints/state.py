"""What a checkpoint says of itself, and whether its files are those that were written.

RUN/checkpoints/latest, best                        names of the last and of the best checkpoint
RUN/checkpoints/step-00000120/checkpoint.json       where the run stood, classes, clip, metrics, checksums of the rest
RUN/checkpoints/step-00000120/model.safetensors     plain weights, and config.json: for create_model and load_weights
RUN/checkpoints/step-00000120/training.safetensors  weights and optimiser as trained, to go on from
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tubelet.backbones import ClipSpec
from tubelet.datasets import Position, checksum

from ..errors import RunError

STATE_FILE = "checkpoint.json"
WEIGHTS_FILE = "model.safetensors"
TRAINING_FILE = "training.safetensors"
UNFINISHED = "unfinished-"


@dataclass(frozen=True)
class Clip:
    """What a model was trained on, so that evaluation and embedding follow it: frames, stride, size in pixels."""

    frames: int
    stride: int
    size: int
    sampling: str

    @classmethod
    def of(cls, clip: ClipSpec) -> Clip:
        return cls(clip.frames, clip.stride, clip.size, clip.sampling)


@dataclass(frozen=True)
class State:
    """Where a run stands after `step` optimiser steps, and what its weights are good for.

    epoch, consumed: samples of the epoch already trained on; classes in label order; metrics: of the evaluation at this
    step, None without one; multilabel: whether a video has several of the classes; kept: for good; written: seconds
    since 1970; files: SHA-256 by name.
    """

    step: int
    epoch: int
    consumed: int
    model: dict[str, Any]
    classes: list[str]
    clip: Clip
    metrics: dict[str, Any] | None = None
    multilabel: bool = False
    kept: bool = False
    written: float = 0.0
    files: dict[str, str] = field(default_factory=dict)

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


def verify(checkpoint: Path, state: State, *names: str) -> None:
    """Raises RunError unless the files `names` of a checkpoint are the ones that were written."""
    for name in names:
        file = checkpoint / name
        try:
            whole = checksum(file) == state.files.get(name)
        except OSError as error:
            raise RunError(f"{file}: cannot be read ({error.strerror or error}). Choose another checkpoint") from error
        if not whole:
            raise RunError(f"{file}: is damaged: its checksum is not that of what was saved. Choose another checkpoint")
