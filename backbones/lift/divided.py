"""Divided space-time attention: an image transformer block given a second attention, over time.

Shapes: B clips, T frames, N patches a frame, C channels; cls (B, 1, C), x (B, N, T, C).

Patches are kept with time innermost, the published (h w t) order. So attention over time reads `x` as B*N sequences
of T tokens without a copy, and the one copy of a block is the concatenation that puts the class token before each
frame, which transposes on its way.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..image.vit import DropPath
from .linear import Linear


class DividedBlock(nn.Module):
    """Attention over time, then over each frame, then the MLP ("Is Space-Time Attention All You Need...", section 3).

    Made from a pre-norm image block with `norm1`, `attn`, `norm2`, `mlp`, whose modules (and names) it keeps. The
    attention over time starts as a copy of the one over space and ends in `temporal_fc`, which starts at zero: a
    fresh lift sees each frame as the image network does. The class token takes no part in time; each frame sees a
    copy of it, and what the frames add to it is averaged.
    """

    def __init__(self, block: nn.Module, dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        parts = dict(block.named_children())
        self.norm1, self.attn, self.ls1 = parts["norm1"], parts["attn"], parts.get("ls1", nn.Identity())
        self.temporal_norm1 = copy.deepcopy(self.norm1)
        self.temporal_attn = copy.deepcopy(self.attn)
        self.temporal_fc = Linear(dim, dim)
        self.norm2, self.mlp, self.ls2 = parts["norm2"], parts["mlp"], parts.get("ls2", nn.Identity())
        self.drop_path = DropPath(drop_path)
        nn.init.zeros_(self.temporal_fc.weight)
        nn.init.zeros_(self.temporal_fc.bias)

    def forward(self, cls: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        frames = x.shape[2]
        over_time = self.drop_path(self.temporal_attn(self.temporal_norm1(x.flatten(0, 1))))
        x = x + self.temporal_fc(over_time).view_as(x)

        each_frame = torch.cat([cls.unsqueeze(1).expand(-1, frames, -1, -1), x.transpose(1, 2)], dim=2)
        over_space = self.drop_path(self.ls1(self.attn(self.norm1(each_frame.flatten(0, 1)))))
        over_space = over_space.unflatten(0, (-1, frames))
        cls = cls + over_space[:, :, 0].mean(dim=1, keepdim=True)
        x = x + over_space[:, :, 1:].transpose(1, 2)

        cls_mlp, x_mlp = self.drop_path.together(self.ls2(self.mlp(self.norm2(cls))), self.ls2(self.mlp(self.norm2(x))))
        return cls + cls_mlp, x + x_mlp
