"""Relation in space-time (UniFormer, Li et al. 2022): what an image network relates in a plane, related in time too.

Shapes: B clips, T frames, N = H * W positions a frame, C channels; x (B, C, T, H, W) in channels-last memory, which is
(B, T, H, W, C), so that tokens (B, T, N, C) are a view of it.

Local relation, a depthwise convolution, becomes as long in time as it is wide. Global relation, a transformer block
over all positions that follow (B, C), needs no change to relate all frames jointly; `SplitBlock` relates a position
over time first, then a frame over space.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from .inflate import inflate_conv
from .walk import Rule


class SplitBlock(nn.Module):
    """Attention of each position over time, then of each frame over space, then the MLP; after x + pos_embed(x).

    Made from a pre-norm block with `pos_embed`, `norm1`, `attn`, `norm2`, `mlp`, whose modules (and names) it keeps.
    What time adds is seen by the attention over space alone: the residual of that attention is without it, as
    published. A fresh `t_attn` adds nothing: its values start at zero, and its projection at one.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts = dict(block.named_children())
        self.pos_embed, self.norm1, self.attn = parts["pos_embed"], parts["norm1"], parts["attn"]
        self.norm2, self.mlp, self.drop_path = parts["norm2"], parts["mlp"], parts["drop_path"]
        self.t_norm, self.t_attn = copy.deepcopy(self.norm1), copy.deepcopy(self.attn)
        for name, parameter in self.t_attn.named_parameters():
            nn.init.constant_(parameter, 1.0 if name == "proj.weight" else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = (x + self.pos_embed(x)).movedim(1, -1)
        frames, height, width = x.shape[1:4]
        x = x.flatten(2, 3)
        over_time = self.drop_path(self.t_attn(self.t_norm(x).transpose(1, 2).flatten(0, 1)))
        seen = x + over_time.unflatten(0, (-1, height * width)).transpose(1, 2)
        x = x.flatten(0, 1) + self.drop_path(self.attn(self.norm1(seen.flatten(0, 1))))
        x = x.view(-1, frames * height * width, x.shape[-1])
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x.unflatten(1, (frames, height, width)).movedim(-1, 1)


def local_relation() -> Rule:
    """The rule that makes every depthwise k x k convolution k x k x k, its weights shared out over time."""

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if not isinstance(module, nn.Conv2d) or not 1 < module.groups == module.in_channels == module.out_channels:
            return None
        return inflate_conv(module, module.kernel_size[0])

    return rule


def split_relation(*prefixes: str) -> Rule:
    """The rule that splits the attention of the blocks whose names begin with one of `prefixes`, and a number."""

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        prefix, _, index = name.rpartition(".")
        return SplitBlock(module) if prefix in prefixes and index.isdigit() else None

    return rule
