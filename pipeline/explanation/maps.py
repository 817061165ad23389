"""Where and when in a clip the evidence for a class lies.

Shapes: B clips (3, T, H, W); C channels on a grid of t x h x w places; N = h * w.

A network of convolutions is explained by Grad-CAM (Selvaraju et al., ICCV 2017, equations 1 and 2), its means taken
over time too: the channels of a deep map, weighted by the mean gradient of the class's score. One that attends is
explained by gradient times activation of its patch embeddings, with attention and the spread of layer norms held fixed
(Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation", ICML 2022, section 4):
attention rollout through all layers, weighted by values and by the class's gradient. It is the same for divided, joint,
factorised, shifted and windowed attention, since nothing has to know which tokens attend to which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.backbones import Model

GRAD_CAM = "Grad-CAM"
ATTENTION = "gradient x activation through fixed attention"
_FINE_ENOUGH = 4
"""Places along a side of the map that Grad-CAM explains: with fewer it would say little of where."""


class Explainer:
    """What a network in evaluation mode saw. method: GRAD_CAM or ATTENTION, after what the network is made of; layer:
    the name of the layer whose output is explained."""

    def __init__(self, model: Model):
        self.model = model
        attends = any(_makes_queries(name) for name, _ in model.named_modules())
        self.method = ATTENTION if attends else GRAD_CAM
        self.layer = _first_embedding(model) if attends else _deep_map(model)

    def __call__(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Evidence (B, T, H, W), float32 and 0 or more, for the class labels (B,) in normalised clips (B, 3, T, H, W).
        What speaks against the class is 0."""
        kept: list[Tensor] = []
        hook = self.model.get_submodule(self.layer).register_forward_hook(lambda *call: kept.append(call[-1]))
        try:
            with torch.enable_grad(), _as_given(self.model) if self.method == ATTENTION else nullcontext():
                # Of a network whose parameters are frozen nothing else would ask for gradients.
                scores = self.model(clips.detach().requires_grad_())
                (slope,) = torch.autograd.grad(scores.gather(1, labels[:, None]).sum(), kept[0])
        finally:
            hook.remove()
        activation, slope = kept[0].detach().float(), slope.float()
        if self.method == ATTENTION:
            evidence = self._on_grid(activation * slope, clips)
        else:
            evidence = (activation * slope.mean((2, 3, 4), keepdim=True)).sum(1)
        shape = clips.shape[2:]
        return F.interpolate(evidence.relu()[:, None], shape, mode="trilinear", align_corners=False)[:, 0]

    def _on_grid(self, shares: Tensor, clips: Tensor) -> Tensor:
        """The sum over channels of an embedding's output, as (B, t, h, w): a map (B, C, t, h, w) or (B, t, h, w, C), or
        tokens (B, t, N, C), or (B * t, N, C)."""
        proj = self.model.get_submodule(self.layer).get_submodule("proj")
        assert isinstance(proj, nn.modules.conv._ConvNd)
        if shares.ndim == 5:
            return shares.sum(1 if shares.shape[1] == proj.out_channels else -1)
        height, width = (side // patch for side, patch in zip(clips.shape[3:], proj.kernel_size[-2:], strict=True))
        return shares.sum(-1).reshape(len(clips), -1, height, width)


def _makes_queries(name: str) -> bool:
    """Whether a layer, by its name, is the projection to queries, keys and values."""
    return name.rpartition(".")[2] == "qkv"


def _first_embedding(model: Model) -> str:
    return next(name for name, _ in model.named_children() if name.startswith("patch_embed"))


def _deep_map(model: Model) -> str:
    """The name of the last stage that puts out a fine enough map (B, C, t, h, w)."""
    sides: dict[str, int] = {}

    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 5:
                sides[name] = output.shape[-1]

        return note

    modules = dict(model.named_modules())
    names = [prefix.rstrip(".") for stage in model.stages() for prefix in stage]
    hooks = [modules[name].register_forward_hook(noting(name)) for name in names if name in modules]
    clip, like = model.clip, next(model.parameters())
    with torch.no_grad():
        model(torch.zeros(1, 3, clip.frames, clip.size, clip.size, device=like.device, dtype=like.dtype))
    for hook in hooks:
        hook.remove()
    finest = min(_FINE_ENOUGH, max(sides.values()))
    return [name for name, side in sides.items() if side >= finest][-1]


@contextmanager
def _as_given(model: nn.Module) -> Iterator[None]:
    """Gradients pass attention and layer norms as if scores and spreads were given (Ali et al., section 4.1)."""
    hooks = [
        norm.register_forward_hook(_with_fixed_spread) for norm in model.modules() if isinstance(norm, nn.LayerNorm)
    ]
    hooks += [
        layer.register_forward_hook(_with_fixed_scores) for name, layer in model.named_modules() if _makes_queries(name)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_fixed_spread(norm: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    (x,) = inputs
    spread = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt().detach()
    scaled = (x - x.mean(-1, keepdim=True)) / spread * norm.weight
    return scaled if norm.bias is None else scaled + norm.bias


def _with_fixed_scores(layer: nn.Module, inputs: Any, output: Tensor | tuple[Tensor, ...]) -> Any:
    """Queries, keys and values come in this order, in one tensor (..., 3 * C) or as as many tensors of each; the scores
    are what the first two make."""
    if isinstance(output, tuple):
        return tuple(part.detach() for part in output[: len(output) // 3 * 2]) + output[len(output) // 3 * 2 :]
    scores, values = output.split([output.shape[-1] // 3 * 2, output.shape[-1] // 3], dim=-1)
    return torch.cat([scores.detach(), values], dim=-1)
