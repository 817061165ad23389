"""Temporal shift: an image transformer's attention given keys and values of the frames beside its own.

Shapes: B clips, T frames, N tokens a frame, C channels; x (B, T, N, C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..image.vit import DropPath, attend


def shift_frames(x: Tensor, fold: int, segment: int) -> Tensor:
    """Channels [0, fold) of each frame come from the next frame, [fold, 2 * fold) from the one before.

    No channel crosses from one `segment` frames to the next (the last may be shorter); what would come from beyond an
    end is zero.
    """
    frames = x.shape[1]
    if frames > segment and frames % segment:
        whole = frames - frames % segment
        return torch.cat([shift_frames(part, fold, segment) for part in (x[:, :whole], x[:, whole:])], dim=1)
    x = x.unflatten(1, (-1, min(frames, segment)))  # (B, segments, T of each, N, C)
    ahead, behind, still = x.split([fold, fold, x.shape[-1] - 2 * fold], dim=-1)
    ahead = F.pad(ahead[:, :, 1:], (0, 0, 0, 0, 0, 1))
    behind = F.pad(behind[:, :, :-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([ahead, behind, still], dim=-1).flatten(1, 2)


class ShiftedAttention(nn.Module):
    """An image's attention within each frame, its keys and values shifted in time: (B, T, N, C) -> (B * T, N, C).

    Made from an attention with `qkv`, `proj`, `proj_drop`, `heads` and `score_dropout`, whose modules (and names) it
    keeps. The shift counts channels across heads, and takes every token, a class token too. `fold` 0 shifts nothing.
    """

    def __init__(self, attention: nn.Module, fold: int, segment: int) -> None:
        super().__init__()
        parts = dict(attention.named_children())
        self.qkv, self.proj, self.proj_drop = parts["qkv"], parts["proj"], parts["proj_drop"]
        self.heads: int = attention.heads  # type: ignore[assignment]
        self.score_dropout: float = attention.score_dropout  # type: ignore[assignment]
        self.fold, self.segment = fold, segment

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).chunk(3, dim=-1)
        if self.fold:
            qkv = qkv[0], *(shift_frames(part, self.fold, self.segment) for part in qkv[1:])
        q, k, v = (part.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in qkv)
        y = attend(q, k, v, self.score_dropout if self.training else 0.0)
        return self.proj_drop(self.proj(y.transpose(-3, -2).flatten(-2)))

    def extra_repr(self) -> str:
        return f"fold={self.fold}, segment={self.segment}"


class ShiftedBlock(nn.Module):
    """A pre-norm image block over the frames of a clip, with its attention shifted: (B, T, N, C) -> (B, T, N, C).

    "Space-time Mixing Attention for Video Transformer", section 3. Keeps the image block's modules and names; there
    are no others. Stochastic depth drops a residual for each frame by itself, as published.
    """

    def __init__(self, block: nn.Module, fold: int, segment: int, drop_path: float = 0.0) -> None:
        super().__init__()
        parts = dict(block.named_children())
        self.norm1, self.attn = parts["norm1"], ShiftedAttention(parts["attn"], fold, segment)
        self.norm2, self.mlp = parts["norm2"], parts["mlp"]
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, 1) + self.drop_path(self.attn(self.norm1(x)))
        return (frames + self.drop_path(self.mlp(self.norm2(frames)))).view_as(x)
