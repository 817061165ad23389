"""Which network embeds, and what of it is the vector: the model's own embedding, or any layer pooled over places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.backbones import Model, create_published, fetch, load_model, meant_by, model_folder
from tubelet.video import Windows

from ..checkpoints.finding import load_trained
from ..checkpoints.state import STATE_FILE, WEIGHTS_FILE, Clip, checksum
from ..errors import ConfigError, RunError


@dataclass(frozen=True)
class Trained:
    """A network with what it was trained for. classes: their names in label order, None where they are not known;
    multilabel: whether a video has several of them; sha256: of the file of its weights; source: the folder or id that
    it came from."""

    model: Model
    clip: Clip
    classes: list[str] | None
    sha256: str
    source: str
    multilabel: bool = False


def load_network(source: str | Path | None) -> Trained:
    """The network of a training run or of one checkpoint in it, of a folder that `tubelet export` or `tubelet convert`
    wrote, here or on the Hugging Face Hub ("hf-hub:owner/name"), or of the id of published weights; in evaluation mode
    on the CPU. Raises RunError and WeightsError where there is none."""
    folder = model_folder(source) if source is not None else None
    if source is not None and meant_by(source) is not None:
        model, file = create_published(str(source)), fetch(str(source))
        return Trained(model.eval(), _own_clip(model), None, checksum(file), str(source))
    if folder is not None and (folder / "config.json").is_file() and not (folder / STATE_FILE).is_file():
        model = load_model(folder)
        sha256 = checksum(folder / WEIGHTS_FILE)
        return Trained(model.eval(), _own_clip(model), model.classes, sha256, str(source), model.multilabel)
    model, state, checkpoint = load_trained(folder)
    if not state.classes:
        raise RunError(f"{checkpoint / STATE_FILE}: names no classes. Choose another checkpoint with --checkpoint")
    sha256 = state.files[WEIGHTS_FILE]  # which load_trained has compared
    return Trained(model, state.clip, state.classes, sha256, str(checkpoint), state.multilabel)


def _own_clip(model: Model) -> Clip:
    clip = model.clip
    return Clip(clip.frames, clip.stride, clip.size, clip.sampling)


def windows_for(
    clip: Clip,
    length: int | None = None,
    seconds: float | None = None,
    every: int | None = None,
    every_seconds: float | None = None,
    count: int = 1,
) -> Windows:
    """The clips of a network; where nothing is said of their length, as long as it was trained on. Raises ConfigError
    for what does not go together."""
    if length is not None and seconds is not None:
        raise ConfigError("--clip-frames and --clip-seconds both say how long a clip is: give one of them")
    if every is not None and every_seconds is not None:
        raise ConfigError("--every-frames and --every-seconds both say when the next clip begins: give one of them")
    slides = every is not None or every_seconds is not None
    if slides and count != 1:
        raise ConfigError("--clips spreads so many over a video, and --every-... slides one over it: give one of them")
    if length is None and seconds is None:
        if clip.sampling == "segments" and slides:
            raise ConfigError(
                "this network was trained on frames spread over whole videos, so the length of a sliding clip has to "
                "be told: --clip-seconds or --clip-frames"
            )
        length = None if clip.sampling == "segments" else clip.frames * clip.stride
    return Windows(clip.frames, length, seconds, every, every_seconds, count)


class Vectors(nn.Module):
    """Clips (B, 3, T, H, W) to vectors (B, features) float32: the model's embedding, or the output of the module named
    `layer`, averaged over all its places. Raises ConfigError for a name that it does not have."""

    def __init__(self, model: Model, layer: str | None = None):
        super().__init__()
        self.model, self.layer = model, layer
        self._kept: Tensor | None = None
        names = [name for name, _ in model.named_modules() if name]
        if layer is None:
            self.features = model.num_features
            return
        if layer not in names:
            raise ConfigError(f"--layer {layer}: the network has no such layer. It has:\n  " + "\n  ".join(names))
        module = _last_part(model.get_submodule(layer))
        module.register_forward_hook(self._keep)
        self._channels, self._first = _channels_of(module)
        self.features = self._probe()

    def forward(self, clips: Tensor) -> Tensor:
        if self.layer is None:
            return self.model.embed(clips).float()
        self._kept = None
        self.model(clips)
        output, self._kept = self._kept, None
        if output is None:
            raise ConfigError(f"--layer {self.layer}: the network does not run it on this input. Choose another")
        return self._pooled(output, len(clips))

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple | list) else output
        self._kept = output if isinstance(output, Tensor) else None

    def _pooled(self, output: Tensor, batch: int) -> Tensor:
        """(batch * k, ...) with the channels first or last after that -> (batch, channels). Networks that fold frames
        or places into the batch keep the clips outermost."""
        if output.ndim < 2 or output.shape[0] % batch:
            raise ConfigError(
                f"--layer {self.layer}: puts out {tuple(output.shape)}, which is not of {batch} clips. Choose another"
            )
        first = self._first if self._first is not None else output.ndim > 3
        axis = 1 if first else output.ndim - 1
        if self._channels is not None and output.shape[axis] != self._channels:
            axis = output.ndim - 1 if axis == 1 else 1  # the layer puts its axes elsewhere than its parts do
        moved = output.float().movedim(axis, -1)
        return moved.reshape(batch, -1, moved.shape[-1]).mean(1)

    @torch.inference_mode()
    def _probe(self) -> int:
        clip = self.model.clip
        return self(torch.zeros(1, 3, clip.frames, clip.size, clip.size)).shape[1]


def _last_part(layer: nn.Module) -> nn.Module:
    """What puts out what a row of modules puts out: networks go through the members, and do not call the row."""
    while isinstance(layer, nn.Sequential | nn.ModuleList) and len(layer):
        layer = layer[-1]
    return layer


def _channels_of(layer: nn.Module) -> tuple[int | None, bool | None]:
    """How many channels a layer puts out, and whether they come before its places, as its last part that has weights
    tells; None where none tells."""
    for part in reversed(list(layer.modules())):
        for name, is_first in (("out_channels", True), ("num_features", True), ("out_features", False)):
            if isinstance(getattr(part, name, None), int) and isinstance(part, _TELLING):
                return getattr(part, name), is_first
        if isinstance(part, nn.LayerNorm):
            return part.normalized_shape[-1], False
    return None, None


_TELLING = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)


def about(trained: Trained, windows: Windows, layer: str | None, precision: str) -> dict[str, Any]:
    """What made a vector, for the metadata of what is stored."""
    return {
        "model": trained.model.config,
        "weights_sha256": trained.sha256,
        "checkpoint": trained.source,
        "clip": asdict(trained.clip),
        "windows": asdict(windows),
        "layer": layer,
        "precision": precision,
    }


def check_same_network(trained: Trained, made_by: dict[str, Any], index: str | Path) -> None:
    """Raises ConfigError unless the vectors of an index are of this network."""
    if made_by["weights_sha256"] == trained.sha256:
        return
    theirs, ours = made_by["model"].get("name"), trained.model.config.get("name")
    what = f"{theirs}, not of {ours}" if theirs != ours else f"{theirs} with other weights"
    raise ConfigError(
        f"{index}: holds vectors of {what}, which say nothing about those of {trained.source}. Give --checkpoint "
        f"{made_by['checkpoint']}, or embed the videos again"
    )


def names_of(classes: Sequence[str] | None, trained: Trained) -> list[str]:
    """The names of the classes. Raises ConfigError where they are not known, or are another number than the scores."""
    names = list(classes) if classes is not None else trained.classes
    if names is None:
        raise ConfigError(
            f"{trained.source}: these weights come without the names of their {trained.model.num_classes} classes. "
            "Give them: Embedder(..., classes=[...])"
        )
    if len(names) != trained.model.num_classes:
        raise ConfigError(f"{len(names)} names of classes for a network that tells {trained.model.num_classes} apart")
    return names
