"""UniFormer (Li et al., "UniFormer: Unified Transformer for Efficient Spatiotemporal Representation Learning", 2022).

Shapes: B clips, T frames, C1..C4 channels of the four stages, t = (T + 1) // 2 after the first embedding.
    clip (B, 3, T, H, W) -> patch_embed1, blocks1 (B, C1, t, H/4, W/4) -> 2 (B, C2, t, H/8, W/8)
    -> 3 (B, C3, t, H/16, W/16) -> 4 (B, C4, t, H/32, W/32) -> norm -> mean (B, C4) -> head (B, num_classes)
Memory is channels-last throughout, that is (B, t, H, W, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from .image.uniformer import ImageUniFormer
from .lift.inflate import TimeSpec, inflation
from .lift.relation import local_relation, split_relation
from .lift.walk import first_of, lift
from .model import GREY, ClipSpec, Entry
from .uniformer_weights import UNIFORMER_WEIGHTS


class UniFormer(ImageUniFormer):
    """An image UniFormer that relates in time too: (B, 3, T, H, W) -> (B, num_classes). Any clip length will do.

    Convolutions of blocks, position embeddings included, are as long in time as they are wide. attention: of stages 3
    and 4, "joint" over all frames at once, or "split": each position over time, then each frame over space. patch_t
    and stride_t are kernels and strides in time of the four embeddings ((3, 3, 3, 3) is the official option STD).
    The other arguments are those of `ImageUniFormer`.
    """

    axes = ("B", "3", "T", "H", "W")
    weight_rules = UNIFORMER_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        attention: Literal["joint", "split"] = "joint",
        dim: Sequence[int] = (64, 128, 320, 512),
        depth: Sequence[int] = (3, 4, 8, 3),
        head_dim: int = 64,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        patch: Sequence[int] = (4, 2, 2, 2),
        patch_t: Sequence[int] = (3, 1, 1, 1),
        stride_t: Sequence[int] = (2, 1, 1, 1),
        pos_kernel: int = 3,
        local_kernel: int = 5,
        norm_eps: float = 1e-6,
        patch_norm_eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        head_dropout: float = 0.0,
        drop_path: float = 0.1,
        init_std: float = 0.02,
    ) -> None:
        super().__init__(
            num_classes=num_classes, dim=dim, depth=depth, head_dim=head_dim, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
            patch=patch, pos_kernel=pos_kernel, local_kernel=local_kernel, norm_eps=norm_eps,
            patch_norm_eps=patch_norm_eps, dropout=dropout, attention_dropout=attention_dropout,
            head_dropout=head_dropout, drop_path=drop_path, init_std=init_std,
        )  # fmt: skip
        if attention not in ("joint", "split"):
            raise ValueError(f"attention must be 'joint' or 'split', got {attention!r}")
        for name, sizes in (("patch_t", patch_t), ("stride_t", stride_t)):
            if len(sizes) != 4 or min(sizes) < 1 or (name == "patch_t" and any(size % 2 == 0 for size in sizes)):
                raise ValueError(f"{name} is four{' odd' * (name == 'patch_t')} numbers, one a stage, got {sizes}")
        self.attention = attention
        times = zip(range(1, 5), patch_t, stride_t, strict=True)
        embeds = {f"patch_embed{stage}.proj": TimeSpec(kernel, stride) for stage, kernel, stride in times}
        lift(self, first_of(local_relation(), inflation(embeds)))
        if attention == "split":
            lift(self, split_relation("blocks3", "blocks4"))
        for module in self.modules():  # an own random start, where the lift shared an image kernel out over time
            if isinstance(module, nn.Conv3d):
                module.reset_parameters()


_PAPER = (
    "Li et al., UniFormer: Unified Transformer for Efficient Spatiotemporal Representation Learning, ICLR 2022 "
    "(arXiv:2201.04676)"
)


def _entry(name: str, summary: str, frames: int, stride: int, size: int, **defaults: object) -> Entry:
    clip = ClipSpec(frames, stride, size, views=(4, 1), sampling="dense", **GREY)
    return Entry(name, summary, _PAPER, clip, UniFormer, {"num_classes": 400, **defaults})


ENTRIES = (
    _entry("uniformer_s", "UniFormer-S, 16 frames of 224 px", 16, 4, 224, drop_path=0.1),
    _entry("uniformer_b", "UniFormer-B, 16 frames of 224 px (published with 32, too)", 16, 4, 224,
           depth=[5, 8, 20, 7], drop_path=0.3),
    _entry(
        "uniformer_tiny", "UniFormer for a CPU: 8 frames of 48 px, learns motion in a few hundred steps", 8, 2, 48,
        num_classes=10, dim=[24, 48, 96, 96], depth=[1, 1, 2, 1], head_dim=24, mlp_ratio=2.0, drop_path=0.0,
    ),
)  # fmt: skip
