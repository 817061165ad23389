"""Checkpoints of a run, found again."""

from __future__ import annotations

from pathlib import Path

from tubelet.backbones import Model, load_model

from ..errors import RunError
from .state import STATE_FILE, WEIGHTS_FILE, State, read_state, verify


def named(folder: Path, pointer: str) -> Path | None:
    """The checkpoint that `latest` or `best` in `folder` names, if it is there."""
    file = folder / pointer
    if not file.is_file():
        return None
    checkpoint = folder / file.read_text(encoding="utf-8").strip()
    return checkpoint if (checkpoint / STATE_FILE).is_file() else None


def newest_first(folder: Path) -> list[Path]:
    """Every finished checkpoint in `folder`, the newest first."""
    return sorted((path for path in folder.glob("step-*") if (path / STATE_FILE).is_file()), reverse=True)


def find_checkpoint(path: Path | None) -> Path:
    """The checkpoint that `path` means: itself, or the best one of a run (the last, where none was evaluated).

    Raises RunError when there is none.
    """
    if path is None:
        raise RunError("no checkpoint given. --checkpoint takes the --out of a training run, or one checkpoint in it")
    if (path / STATE_FILE).is_file() and (path / WEIGHTS_FILE).is_file():
        return path
    found = named(path / "checkpoints", "best") or named(path / "checkpoints", "latest")
    if found is None:
        what = "holds no finished checkpoint" if path.is_dir() else "no such folder"
        raise RunError(f"{path}: {what}. --checkpoint takes the --out of a training run, or one checkpoint in it")
    return found


def load_trained(path: Path | None) -> tuple[Model, State, Path]:
    """The trained model that `path` means, in evaluation mode on the CPU, its state, its checkpoint's folder. Raises
    RunError for a checkpoint that is not whole."""
    checkpoint = find_checkpoint(path)
    state = read_state(checkpoint)
    verify(checkpoint, state, WEIGHTS_FILE)
    return load_model(checkpoint).eval(), state, checkpoint
