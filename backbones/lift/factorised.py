"""Attention over time and over space apart: three ways to give an image transformer time (ViViT, section 3.3).

Shapes: B clips, T steps in time, N patches at each, C channels, h heads of d channels; x (B, T, N, C).

Attention over time reads its queries, keys and values as (B, N*h, T, d): with each of the three in a tensor of its
own, patches and heads are one axis of even stride, and no tensor is copied for being read in another order.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..image.vit import DropPath, attend
from .linear import linear

Order = Literal["time_space", "space_time"]


class SplitLinear(nn.Linear):
    """A linear layer, with its parameters, whose output comes in `parts`: (..., C) -> as many of (..., out / parts)."""

    def __init__(self, whole: nn.Linear, parts: int) -> None:
        super().__init__(whole.in_features, whole.out_features, bias=whole.bias is not None, device="meta")
        self.weight, self.bias = whole.weight, whole.bias
        self.parts = parts

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        biases = [None] * self.parts if self.bias is None else self.bias.chunk(self.parts)
        pairs = zip(self.weight.chunk(self.parts), biases, strict=True)
        return tuple(linear(x, weight, bias) for weight, bias in pairs)


class TimeAttention(nn.Module):
    """The self-attention of an image block (`qkv`, `proj`), turned to time: (B, T, N, C) -> (B, T, N, C)."""

    def __init__(self, attn: nn.Module, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        parts: dict[str, Any] = dict(attn.named_children())
        self.heads, self.dropout = heads, dropout
        self.qkv = SplitLinear(parts["qkv"], parts=3)
        self.proj, self.proj_drop = parts["proj"], parts.get("proj_drop", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        y = attend_over_time(q, k, v, self.heads, self.dropout if self.training else 0.0)
        return self.proj_drop(self.proj(y))


class FactorisedHeads(nn.Module):
    """The self-attention of an image block (`qkv`, `proj`), of which the first half of the heads attends over time and
    the second over space, each at the patch's own place or time: (B, T, N, C) -> (B, T, N, C). ViViT's model 4.
    """

    def __init__(self, attn: nn.Module, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads % 2:
            raise ValueError(f"heads must be even for half of them to attend over time, got {heads}")
        parts: dict[str, Any] = dict(attn.named_children())
        self.heads, self.dropout = heads, dropout
        self.qkv = SplitLinear(parts["qkv"], parts=6)
        self.proj, self.proj_drop = parts["proj"], parts.get("proj_drop", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        q_time, q_space, k_time, k_space, v_time, v_space = self.qkv(x)
        half, dropout = self.heads // 2, self.dropout if self.training else 0.0
        over_time = attend_over_time(q_time, k_time, v_time, half, dropout)
        over_space = attend_over_space(q_space, k_space, v_space, half, dropout)
        return self.proj_drop(self.proj(torch.cat([over_time, over_space], dim=-1)))


class FactorisedBlock(nn.Module):
    """Attention over time and over space one after the other, then the MLP: ViViT's model 3.

    Made from a pre-norm image block with `norm1`, `attn`, `norm2`, `mlp`, whose modules (and names) it keeps for space.
    Attention over time starts as a copy of it whose `proj` is zero: a fresh lift sees each step in time as the image
    network does. (The paper zeroes all of it, and that could not learn: no gradient passes two zero layers.)
    """

    def __init__(
        self, block: nn.Module, heads: int, order: Order = "time_space", drop_path: float = 0.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if order not in ("time_space", "space_time"):
            raise ValueError(f"the order of attention must be 'time_space' or 'space_time', got {order!r}")
        parts = dict(block.named_children())
        self.order = order
        self.temporal_norm1 = copy.deepcopy(parts["norm1"])
        self.temporal_attn = TimeAttention(copy.deepcopy(parts["attn"]), heads, dropout)
        self.norm1, self.attn, self.ls1 = parts["norm1"], parts["attn"], parts.get("ls1", nn.Identity())
        self.norm2, self.mlp, self.ls2 = parts["norm2"], parts["mlp"], parts.get("ls2", nn.Identity())
        self.drop_path = DropPath(drop_path)
        for parameter in self.temporal_attn.proj.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self._over_space(self._over_time(x)) if self.order == "time_space" else self._over_time(self._over_space(x))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))

    def _over_time(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.temporal_attn(self.temporal_norm1(x)))

    def _over_space(self, x: Tensor) -> Tensor:
        y = self.ls1(self.attn(self.norm1(x.flatten(0, 1))))
        return x + self.drop_path(y.view_as(x))


def attend_over_time(q: Tensor, k: Tensor, v: Tensor, heads: int, dropout: float) -> Tensor:
    """Softmax attention of each patch with itself at other times: (B, T, N, C) of each -> (B, T, N, C)."""
    q, k, v = (part.unflatten(-1, (heads, -1)).flatten(2, 3).transpose(1, 2) for part in (q, k, v))  # (B, N*h, T, d)
    return attend(q, k, v, dropout).transpose(1, 2).unflatten(2, (-1, heads)).flatten(-2)


def attend_over_space(q: Tensor, k: Tensor, v: Tensor, heads: int, dropout: float) -> Tensor:
    """Softmax attention among the patches of each time: (B, T, N, C) of each -> (B, T, N, C)."""
    shape = q.shape
    q, k, v = (part.unflatten(-1, (heads, -1)).flatten(0, 1).transpose(1, 2) for part in (q, k, v))  # (B*T, h, N, d)
    return attend(q, k, v, dropout).transpose(1, 2).flatten(-2).view(shape)
