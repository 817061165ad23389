"""Where and when in a clip the evidence for a class lies.

Shapes: B clips (3, T, H, W); C channels on a grid of t x h x w places; N = h * w.

A network of convolutions is explained by Grad-CAM (Selvaraju et al., ICCV 2017, equations 1 and 2), its means taken
over time too: the channels of a deep map, weighted by the mean gradient of the class's score. One that attends is
explained by gradient times activation of its patch embeddings, with attention and the spread of layer norms held fixed
(Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation", ICML 2022, section 4): the
attention of all layers, weighted by values and by the class's gradient. Or, asked for, by attention rollout, which
knows no class. Both are the same for divided, joint, factorised, shifted and windowed attention, since nothing has to
know which tokens attend to which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.backbones import Model

from ..errors import ConfigError
from .rollout import attention_only, makes_queries, mixes_by_attention_alone

GRAD_CAM = "Grad-CAM"
ATTENTION = "gradient x activation through fixed attention"
ROLLOUT = "attention rollout"
Method = Literal["gradient", "rollout"]
_FINE_ENOUGH = 4
"""Places along a side of the map that Grad-CAM explains: with fewer it would say little of where."""


class Explainer:
    """What a network in evaluation mode saw.

    method: "gradient", of a class's score, which is GRAD_CAM or ATTENTION after what the network is made of, or
    "rollout"; layer: of GRAD_CAM, the stage whose map is explained (None: the last with a fine enough one). The
    attributes `method` and `layer` are what they have become. Raises ConfigError for what the network has not.
    """

    def __init__(self, model: Model, method: Method = "gradient", layer: str | None = None):
        self.model = model
        attends = any(makes_queries(name) for name, _ in model.named_modules())
        if method == "rollout" and not mixes_by_attention_alone(model):
            raise ConfigError(
                f"--method rollout: {model.config['name']} mixes places by convolutions, and rollout is defined for "
                "attention alone. Leave --method out"
            )
        if layer is not None and attends:
            raise ConfigError(
                f"--layer {layer}: is for Grad-CAM, and {model.config['name']} attends: its patch embeddings are "
                "explained. Leave --layer out"
            )
        self.method = ROLLOUT if method == "rollout" else ATTENTION if attends else GRAD_CAM
        self.layer = _first_embedding(model) if attends else _deep_map(model, layer)

    def __call__(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Evidence (B, T, H, W), float32 and 0 or more, for the class labels (B,) in normalised clips (B, 3, T, H, W).
        What speaks against the class is 0. Of ROLLOUT it is the same for every class."""
        how = {GRAD_CAM: self._grad_cam, ATTENTION: self._attention, ROLLOUT: self._rollout}[self.method]
        evidence = how(clips.detach().requires_grad_(), labels)  # of frozen parameters nothing else asks for gradients
        shape = clips.shape[2:]
        return F.interpolate(evidence.relu()[:, None], shape, mode="trilinear", align_corners=False)[:, 0]

    def _grad_cam(self, clips: Tensor, labels: Tensor) -> Tensor:
        activation, slope = self._slope(clips, labels)
        return (activation * slope.mean((2, 3, 4), keepdim=True)).sum(1)

    def _attention(self, clips: Tensor, labels: Tensor) -> Tensor:
        with _as_given(self.model):
            activation, slope = self._slope(clips, labels)
        return self._on_grid(activation * slope, clips)

    def _slope(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer puts out, and the gradient there of the class's score."""
        with self._kept() as kept:
            scores = self.model(clips)
            (slope,) = torch.autograd.grad(scores.gather(1, labels[:, None]).sum(), kept[0])
        return kept[0].detach().float(), slope.float()

    def _rollout(self, clips: Tensor, labels: Tensor) -> Tensor:
        with self._kept() as kept, attention_only(self.model) as pooled:
            self.model(clips)
            (slope,) = torch.autograd.grad(pooled[0].mean(-1).sum(), kept[0])
        return self._on_grid(slope.float(), clips)

    @contextmanager
    def _kept(self) -> Iterator[list[Tensor]]:
        """With gradients on, a list that gets the output of the layer."""
        kept: list[Tensor] = []
        hook = self.model.get_submodule(self.layer).register_forward_hook(lambda *call: kept.append(call[-1]))
        try:
            with torch.enable_grad():
                yield kept
        finally:
            hook.remove()

    def _on_grid(self, shares: Tensor, clips: Tensor) -> Tensor:
        """The sum over channels of an embedding's output, as (B, t, h, w): a map (B, C, t, h, w) or (B, t, h, w, C), or
        tokens (B, t, N, C), or (B * t, N, C)."""
        proj = self.model.get_submodule(self.layer).get_submodule("proj")
        assert isinstance(proj, nn.modules.conv._ConvNd)
        if shares.ndim == 5:
            return shares.sum(1 if shares.shape[1] == proj.out_channels else -1)
        height, width = (side // patch for side, patch in zip(clips.shape[3:], proj.kernel_size[-2:], strict=True))
        return shares.sum(-1).reshape(len(clips), -1, height, width)


def _first_embedding(model: Model) -> str:
    return next(name for name, _ in model.named_children() if name.startswith("patch_embed"))


def _deep_map(model: Model, layer: str | None) -> str:
    """The name of the last stage that puts out a fine enough map (B, C, t, h, w), or of the one asked for."""
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
    if layer is not None:
        if layer not in sides:
            raise ConfigError(
                f"--layer {layer}: {model.config['name']} has no such stage. There are {', '.join(sides)}"
            )
        return layer
    finest = min(_FINE_ENOUGH, max(sides.values()))
    return [name for name, side in sides.items() if side >= finest][-1]


@contextmanager
def _as_given(model: nn.Module) -> Iterator[None]:
    """Gradients pass attention and layer norms as if scores and spreads were given (Ali et al., section 4.1)."""
    hooks = [
        norm.register_forward_hook(_with_fixed_spread) for norm in model.modules() if isinstance(norm, nn.LayerNorm)
    ]
    hooks += [
        layer.register_forward_hook(_with_fixed_scores) for name, layer in model.named_modules() if makes_queries(name)
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
