"""`tubelet export`: a trained network as a folder to pass on: weights or traced graphs, its configuration, a card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tubelet.backbones import load_model, save_model
from tubelet.datasets import checksum

from ..checkpoints.state import WEIGHTS_FILE
from ..checkpoints.trained import Trained, load_network
from ..errors import ConfigError, RunError
from ..files import sync_files, sync_folder
from .about import about, write_about
from .card import model_card
from .graphs import INPUT, OUTPUT, require_onnx, traced, write_onnx, write_pt2
from .hub import check_push, push

Format = Literal["safetensors", "pt2", "onnx"]


@dataclass(frozen=True)
class ExportConfig:
    checkpoint: Path | None = None
    """Folder of a training run (its best checkpoint is taken), one checkpoint in it, a folder that `tubelet export` or
    `tubelet convert` wrote, hf-hub:OWNER/NAME for such a folder on the Hub, or the id of published weights."""
    out: Path | None = None
    """Folder to write, which must not exist."""
    format: tuple[Format, ...] = ("safetensors",)
    """One or several: safetensors, plain weights to load with tubelet; pt2, a program for torch.export.load; onnx."""
    licence: str | None = None
    """Licence of the weights, such as apache-2.0 (default: that of the published weights, otherwise unknown)."""
    data: Path | None = None
    """Folder of the dataset that the network was trained on, for the card (default: where it was when it was
    trained)."""
    push: str | None = None
    """OWNER/NAME on the Hugging Face Hub to put the folder to as well. Log in first with `hf auth login`."""
    private: bool = False
    """With --push: if it has to be made, others do not see it."""


def export(config: ExportConfig) -> Iterator[str]:
    """Writes the folder, which is there whole or not at all, and tells what it did.

    Raises ConfigError, RunError, WeightsError or DataError: for what is missing, cannot be exported or written, or
    computes other scores than the network.
    """
    if config.checkpoint is None or config.out is None:
        raise ConfigError("exporting needs --checkpoint RUN and --out FOLDER")
    if not config.format:
        raise ConfigError("--format: name at least one of safetensors, pt2 and onnx")
    if "onnx" in config.format:
        require_onnx()
    if config.push is not None:
        check_push(config.push)
    elif config.private:
        raise ConfigError("--private says how --push makes a repository: give it together with --push OWNER/NAME")
    with whole_or_none(config.out) as folder:
        trained = as_trained(load_network(config.checkpoint))
        yield from _write(trained, config.format, folder)
        told = about(trained, config.data, config.licence)
        yield from told.remarks
        weights = folder / WEIGHTS_FILE
        write_about(told, checksum(weights) if weights.is_file() else trained.sha256, folder)
        (folder / "README.md").write_text(model_card(trained, told, config.format, config.push), encoding="utf-8")
    yield f"{config.out}: {', '.join(sorted(path.name for path in config.out.iterdir()))}"
    if config.push is not None:
        yield push(config.out, config.push, config.private)


def as_trained(trained: Trained) -> Trained:
    """The same, whose model also carries the clip it was trained on and its classes, to be saved with it."""
    model = trained.model.float()
    model.clip = replace(model.clip, **asdict(trained.clip))
    model.classes, model.multilabel = trained.classes, trained.multilabel
    return replace(trained, model=model)


def _write(trained: Trained, formats: tuple[Format, ...], folder: Path) -> Iterator[str]:
    model, metadata = trained.model, _metadata(trained)
    save_model(model, folder)
    if "safetensors" in formats:
        yield _same_weights(trained, folder)
    else:
        (folder / WEIGHTS_FILE).unlink()
    graphs = [(name, write) for name, write in (("pt2", write_pt2), ("onnx", write_onnx)) if name in formats]
    if graphs:
        program = traced(model)
        for name, write in graphs:
            apart = write(program, model, folder / f"model.{name}", metadata)
            yield f"model.{name}: the network's scores on random clips, 1 and 3 at once, to {apart:.1e} of the largest"


def _metadata(trained: Trained) -> dict[str, Any]:
    """What a graph's file says of itself."""
    model = trained.model
    clip, size = model.clip, model.clip.size
    return {
        "model": model.config,
        "classes": trained.classes,
        "multilabel": trained.multilabel,
        "clip": asdict(clip),
        "input": {"name": INPUT, "shape": ["batch", clip.frames, size, size, 3], "type": "uint8", "colours": "RGB"},
        "output": {"name": OUTPUT, "shape": ["batch", model.num_classes], "type": "float32"},
        "weights_sha256": trained.sha256,
    }


def _same_weights(trained: Trained, folder: Path) -> str:
    """Raises RunError unless the folder, loaded again, is the network."""
    ours, again = trained.model.state_dict(), load_model(folder).state_dict()
    differ = [name for name in ours if not torch.equal(ours[name], again[name])]
    if differ:
        raise RunError(f"{WEIGHTS_FILE}: {differ[0]} is another than the network's once loaded again. Report this")
    return f"{WEIGHTS_FILE}: the network's {len(ours)} tensors, to the bit"


@contextmanager
def whole_or_none(out: Path) -> Iterator[Path]:
    """A folder to fill beside `out`, which gets that name at the end; if anything fails nothing of it stays. Raises
    ConfigError where `out` exists, or where its folder cannot be written in."""
    if out.is_symlink() or out.exists():
        raise ConfigError(f"--out {out}: is there already. Name another folder, or remove it first")
    unfinished = out.with_name(f".{out.name}.unfinished-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror or error}). Name another folder") from error
    try:
        yield unfinished
        sync_files(unfinished)
        os.rename(unfinished, out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
