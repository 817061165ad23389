"""What every network of this package offers, whatever its family: the face that training, evaluation and export use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from .layouts import WeightRules


class Normalisation(TypedDict):
    """Mean and spread of each channel, of pixels from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
KINETICS = Normalisation(mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989))  # torchvision, VMZ
GREY = Normalisation(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))  # PySlowFast and what came of it
HALF = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # pixels from -1 to 1


@dataclass(frozen=True)
class ClipSpec:
    """The input a network was published with: which frames, how large, how normalised, and how many views a score
    takes.

    `views` is (clips along time, crops in space), of `view_size` pixels where that is not `size`. `sampling` is "dense"
    (frames `stride` apart) or "segments" (one frame out of each of `frames` equal parts of the video). An image network
    has one frame.
    """

    frames: int
    stride: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    views: tuple[int, int]
    sampling: Literal["dense", "segments"]
    view_size: int | None = None


def image_clip(normalisation: Normalisation) -> ClipSpec:
    """The input of the image networks: one picture of 224 pixels."""
    return ClipSpec(frames=1, stride=1, size=224, views=(1, 1), sampling="dense", **normalisation)


def tiny_clip(normalisation: Normalisation) -> ClipSpec:
    """The input of every `*_tiny`, which the demo set is made for."""
    return ClipSpec(frames=8, stride=2, size=48, views=(1, 3), sampling="dense", **normalisation)


class Model(nn.Module, ABC):
    """An image or video classifier: `head(head_drop(embed(input)))`.

    Video networks take (B, 3, T, H, W), image networks (B, 3, H, W); both float and normalised. Subclasses set `head`,
    `head_drop` and `num_features`; `create_model` adds `clip`, the input as built, and `config`, the call that
    rebuilds it. `classes`, names in label order, and `multilabel`, whether an input has several of them, come with the
    weights, where those tell.
    """

    axes: ClassVar[tuple[str, ...]] = ("B", "3", "T", "H", "W")
    weight_rules: ClassVar[WeightRules]
    num_features: int
    head: nn.Linear
    head_drop: nn.Module
    clip: ClipSpec
    config: dict[str, Any]
    classes: list[str] | None = None
    multilabel: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.config = {}
        self.grad_checkpointing = False

    @abstractmethod
    def forward_features(self, clip: Tensor) -> Tensor:
        """The normalised tokens or feature map before pooling; its shape is the family's own."""

    @abstractmethod
    def embed(self, clip: Tensor) -> Tensor:
        """The vector of each input, (B, num_features): what the head classifies."""

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must leave alone though they have more than one axis."""

    @abstractmethod
    def stages(self) -> list[tuple[str, ...]]:
        """Name prefixes of the layers after the stem, in order; the head's come last."""

    def forward(self, clip: Tensor) -> Tensor:
        """Logits (B, num_classes). An input of another rank, channel count or dtype raises ValueError."""
        return self.head(self.head_drop(self.embed(clip)))

    @property
    def num_classes(self) -> int:
        return self.head.out_features

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one of `num_classes` outputs, on the same device and in the same dtype."""
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        weight = self.head.weight
        self.head = nn.Linear(self.head.in_features, num_classes, device=weight.device, dtype=weight.dtype)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.config = {**self.config, "num_classes": num_classes}
        self.classes, self.multilabel = None, False

    def layer_groups(self) -> list[list[str]]:
        """Every parameter's name once, grouped from stem to head: what layer-wise learning-rate decay walks over."""
        stages = self.stages()
        groups: list[list[str]] = [[] for _ in range(len(stages) + 1)]
        for name, _ in self.named_parameters():
            stage = next((i for i, prefixes in enumerate(stages, 1) if name.startswith(prefixes)), 0)
            groups[stage].append(name)
        return groups

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def run(self, block: nn.Module, *inputs: Tensor) -> Any:
        """Call a block, under gradient checkpointing if that is on."""
        if not self.grad_checkpointing or not torch.is_grad_enabled():
            return block(*inputs)
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
        if not norms:
            return checkpoint(block, *inputs, use_reentrant=False)
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _untracked(norms)))

    def check_input(self, x: Tensor, smallest: int, shortest: int = 1) -> None:
        """Raise ValueError unless `x` has this model's axes, three channels, a float dtype, H and W of at least
        `smallest` and, if it is a clip, at least `shortest` frames."""
        wanted = f"{type(self).__name__} takes ({', '.join(self.axes)}) float with H and W of at least {smallest}"
        if shortest > 1:
            wanted += f" and T of at least {shortest}"
        shape = tuple(x.shape)
        if x.ndim != len(self.axes) or shape[1] != 3:
            raise ValueError(f"{wanted}, got {shape}")
        if min(shape[2:-2], default=shortest) < shortest or min(shape[-2:]) < smallest:
            raise ValueError(f"{wanted}, got {shape}")
        if not x.is_floating_point():
            raise ValueError(f"{wanted}, got {x.dtype}: convert and normalise first (see model.clip.mean and .std)")


@contextmanager
def _untracked(norms: list[_BatchNorm]) -> Iterator[None]:
    """Recompute and leave alone the running statistics, which have seen this batch already."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)


@dataclass(frozen=True)
class Entry:
    """One name of the registry: what it builds, from which paper, and the input it was published with.

    `defaults` overrides the defaults of `build`'s own arguments. frames and size come from `clip`, and reach a network
    only if it depends on them: convolutions do not.
    """

    name: str
    summary: str
    source: str
    clip: ClipSpec
    build: type[Model]
    defaults: Mapping[str, Any]
    kind: Literal["video", "image"] = "video"

    def clip_as_built(self, arguments: Mapping[str, Any]) -> ClipSpec:
        return replace(self.clip, size=arguments["size"], frames=arguments.get("frames", 1))
