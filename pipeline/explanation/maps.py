"""Where and when in a clip the evidence for a class lies.

Shapes: B clips (3, T, H, W); C channels on a grid of t x h x w places.

A network with a map in space-time (convolutions, Video Swin, UniFormer) is explained by Grad-CAM (Selvaraju et al.,
ICCV 2017, equations 1 and 2), its means taken over time too: the channels of a deep map, weighted by the mean gradient
of the class's score. One of tokens by gradient times activation of its patch embeddings, with attention and the spread
of layer norms held fixed (Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation",
ICML 2022, section 4): attention rollout through all layers, with the values and the class taken into account. It is the
same for divided, joint, factorised and shifted attention, since nothing has to know which tokens attend to which.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.backbones import Model, fixed_attention

GRAD_CAM = "Grad-CAM"
ATTENTION = "gradient x activation through fixed attention"
_FINE_ENOUGH = 4
"""Places along a side of the map that is explained: with fewer it would say little of where."""


class Explainer:
    """What a network in evaluation mode saw. method: GRAD_CAM or ATTENTION, after what the network is made of; layer:
    the name of the layer whose output is explained."""

    def __init__(self, model: Model):
        self.model = model
        self.layer = self._deep_map()
        self.method = ATTENTION if self.layer is None else GRAD_CAM
        self.layer = self.layer or "patch_embed"

    def __call__(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Evidence (B, T, H, W), float32 and 0 or more, for the class labels (B,) in normalised clips (B, 3, T, H, W).
        What speaks against the class is 0."""
        fixed = _fixed_norms(self.model) if self.method == ATTENTION else nullcontext()
        kept: list[Tensor] = []
        hook = self.model.get_submodule(self.layer).register_forward_hook(lambda *call: kept.append(call[-1]))
        try:
            with torch.enable_grad(), fixed:
                # Of a network whose parameters are frozen nothing else would ask for gradients.
                scores = self.model(clips.detach().requires_grad_())
                score = scores.gather(1, labels[:, None]).sum()
                (slope,) = torch.autograd.grad(score, kept[0])
        finally:
            hook.remove()
        activation, slope = kept[0].detach().float(), slope.float()
        if self.method == ATTENTION:
            evidence = self._on_grid((activation * slope).sum(-1), clips)
        else:
            activation, slope = _channels_first(activation), _channels_first(slope)
            evidence = (activation * slope.mean((2, 3, 4), keepdim=True)).sum(1)
        shape = clips.shape[2:]
        return F.interpolate(evidence.relu()[:, None], shape, mode="trilinear", align_corners=False)[:, 0]

    def _on_grid(self, tokens: Tensor, clips: Tensor) -> Tensor:
        """A number for each patch, frames in the batch or not: (B, t, h, w)."""
        kernel = self.model.get_submodule(self.layer).get_submodule("proj").kernel_size
        height, width = (side // patch for side, patch in zip(clips.shape[3:], kernel[-2:], strict=True))  # type: ignore[index,call-overload]
        return tokens.reshape(len(clips), -1, height, width)

    @torch.no_grad()
    def _deep_map(self) -> str | None:
        """The name of the last layer that puts out a fine enough map in space-time, None where none does."""
        found: list[tuple[int, str]] = []
        hooks = []
        for name in (prefix.rstrip(".") for stage in self.model.stages() for prefix in stage):
            module = dict(self.model.named_modules()).get(name)
            if module is not None:
                hooks.append(module.register_forward_hook(_noting(found, name)))
        clip = self.model.clip
        like = next(self.model.parameters())
        self.model(torch.zeros(1, 3, clip.frames, clip.size, clip.size, device=like.device, dtype=like.dtype))
        for hook in hooks:
            hook.remove()
        finest = min(_FINE_ENOUGH, max((side for side, _ in found), default=0))
        return next((name for side, name in reversed(found) if side >= finest), None)


def _noting(found: list[tuple[int, str]], name: str) -> Any:
    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 5:
            found.append((_channels_first(output).shape[-1], name))

    return note


def _channels_first(x: Tensor) -> Tensor:
    """(B, C, t, h, w) of a map with its channels before or after its grid. Clips are square, and so the two sides of
    their maps, which tells them from the channels."""
    return x if x.shape[3] == x.shape[4] else x.movedim(-1, 1)


@contextmanager
def _fixed_norms(model: nn.Module) -> Iterator[None]:
    """Gradients pass attention and layer norms as if scores and spreads were given (Ali et al., section 4.1)."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_hook(_with_fixed_spread) for norm in norms]
    try:
        with fixed_attention():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_fixed_spread(norm: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    (x,) = inputs
    spread = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt().detach()
    scaled = (x - x.mean(-1, keepdim=True)) / spread * norm.weight
    return scaled if norm.bias is None else scaled + norm.bias
