"""X-ViT (Bulat et al., "Space-time Mixing Attention for Video Transformer", NeurIPS 2021).

Shapes: B clips, T frames, N patches a frame (H // p by W // p), C channels, D the temporal head's width.
    clip (B, 3, T, H, W) -> class token and patches of each frame (B, T, 1 + N, C), plus position, plus time
    -> blocks, in which each frame sees keys and values of the frames beside it -> norm -> class tokens (B, T, C)
    -> temporal head (B, D), or their average (B, C) -> head (B, num_classes)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .image.vit import Attention, Block, Mlp, ViT, drop_path_rates, init_linear
from .lift.shift import ShiftedBlock
from .model import HALF, ClipSpec, Entry, Model
from .xvit_weights import XVIT_WEIGHTS, repeat_in_time


class TemporalHead(nn.Module):
    """Attention over the class tokens of the frames: (B, T, C) -> (B, hidden). No position: it sees a set of frames."""

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        hidden: int,
        mlp_ratio: float,
        qkv_bias: bool,
        norm_eps: float,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.Sequential(
            *(
                Block(
                    dim,
                    attn=Attention(dim, heads, qkv_bias, dropout, attention_dropout),
                    mlp=Mlp(dim, int(dim * mlp_ratio + 1e-6), dropout),
                    norm_eps=norm_eps,
                    drop_path=dropout,  # one rate for both, as published
                )
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.fc = nn.Linear(dim, hidden)

    def forward(self, frames: Tensor) -> Tensor:
        tokens = self.blocks(torch.cat([self.cls_token.expand(frames.shape[0], -1, -1), frames], dim=1))
        return F.gelu(self.fc(self.norm(tokens[:, 0])))


class XViT(Model):
    """An image ViT whose keys and values are shifted in time: (B, 3, T, H, W) -> (B, num_classes).

    In the blocks of `shift_blocks` (None: in all; numbers beyond the last block are passed over, as in the published
    configurations) one in `shift_div` channels of the keys and values of a frame come from the next frame, and as many
    from the one before. The shift starts anew every `segments` frames: the published Kinetics network of 16 frames has
    segments of 8. head: "temporal" is a transformer over the frames' class tokens, "average" their mean.

    The position embedding is always that of `pos_size` pixels, resized bicubic to any other H and W as published. Of
    another T than `frames`, a multiple repeats the time embedding and others resize it by nearest neighbour.

    At initialisation init_std is the spread of linear weights, embed_std that of the class token and the position
    embedding, time_embed_std that of the time embedding, which is published as zero. The temporal head and its
    classifier begin as PyTorch's layers do, as published.
    """

    weight_rules = XVIT_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        frames: int,
        segments: int = 8,
        shift_div: int = 8,
        shift_blocks: Sequence[int] | None = None,
        patch: int = 16,
        pos_size: int = 224,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        head: Literal["temporal", "average"] = "temporal",
        head_depth: int = 1,
        head_heads: int | None = None,
        head_dim: int | None = None,
        head_qkv_bias: bool = False,
        head_norm_eps: float = 1e-5,
        head_block_dropout: float = 0.0,
        head_attention_dropout: float = 0.0,
        head_dropout: float = 0.5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        init_std: float = 0.02,
        embed_std: float = 0.02,
        time_embed_std: float = 0.0,
    ) -> None:
        super().__init__()
        if head not in ("temporal", "average"):
            raise ValueError(f"head must be 'temporal' or 'average', got {head!r}")
        if segments < 1:
            raise ValueError(f"segments must be at least 1 frame long, got {segments}")
        if shift_div < 2:
            raise ValueError(f"shift_div must be at least 2, one part each way in time; got {shift_div}")
        shifted = range(depth) if shift_blocks is None else tuple(shift_blocks)
        if any(block < 0 for block in shifted):
            raise ValueError(f"shift_blocks must be numbers of blocks, counted from 0; got {list(shifted)}")
        image = ViT(
            num_classes=num_classes, size=pos_size, patch=patch, dim=dim, depth=depth, heads=heads,
            mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, norm_eps=norm_eps, dropout=dropout,
            attention_dropout=attention_dropout, drop_path=drop_path, init_std=init_std, embed_std=embed_std,
        )  # fmt: skip
        self.patch, self.grid, self.pos_size = patch, image.grid, pos_size
        self.cls_token, self.pos_embed = cast(nn.Parameter, image.cls_token), image.pos_embed
        self.temp_embed = nn.Parameter(torch.empty(1, frames, 1, dim))
        nn.init.normal_(self.temp_embed, std=time_embed_std)
        self.patch_embed, self.pos_drop = image.patch_embed, image.pos_drop
        self.blocks = nn.ModuleList(
            ShiftedBlock(block, dim // shift_div if i in shifted else 0, segments, rate)
            for i, (block, rate) in enumerate(zip(image.blocks, drop_path_rates(drop_path, depth), strict=True))
        )
        self.norm, self.temporal_head = image.norm, None
        self.num_features = (head_dim or dim) if head == "temporal" else dim
        if head == "temporal":
            self.temporal_head = TemporalHead(
                dim, head_depth, head_heads or heads, self.num_features, mlp_ratio, head_qkv_bias, head_norm_eps,
                head_block_dropout, head_attention_dropout,
            )  # fmt: skip
        self.head_drop, self.head = nn.Dropout(head_dropout), nn.Linear(self.num_features, num_classes)
        if head == "average":
            init_linear(self.head, init_std)

    def forward_features(self, clip: Tensor) -> Tensor:
        """Tokens after the last norm, each frame's class token first: (B, T, 1 + N, C)."""
        return self.norm(self._encode(clip))

    def embed(self, clip: Tensor) -> Tensor:
        """What the temporal head makes of the frames' class tokens, or their average: (B, num_features)."""
        frames = self.norm(self._encode(clip)[:, :, 0])
        return frames.mean(dim=1) if self.temporal_head is None else self.run(self.temporal_head, frames)

    def no_weight_decay(self) -> set[str]:
        names = {"cls_token", "pos_embed", "temp_embed"}
        return names if self.temporal_head is None else names | {"temporal_head.cls_token"}

    def stages(self) -> list[tuple[str, ...]]:
        return [*((f"blocks.{i}.",) for i in range(len(self.blocks))), ("norm.", "temporal_head.", "head.")]

    def _encode(self, clip: Tensor) -> Tensor:
        """Tokens after the last block (B, T, 1 + N, C)."""
        self.check_input(clip, smallest=self.patch)
        frames = clip.shape[2]
        x = self.patch_embed(clip.transpose(1, 2).flatten(0, 1))
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.pos_drop(x + self._positions(clip.shape[-2], clip.shape[-1]))
        x = x.unflatten(0, (-1, frames)) + repeat_in_time(self.temp_embed, frames)
        for block in self.blocks:
            x = self.run(block, x)
        return x

    def _positions(self, height: int, width: int) -> Tensor:
        """The position embedding (1, 1 + N, C) for an image of this many pixels, which need not fill its patches.

        Published is the ratio of pixels, not of patches; where rounding or an odd patch makes that another grid, the
        grid counts.
        """
        if (height, width) == (self.pos_size, self.pos_size):
            return self.pos_embed
        grid, scale = (height // self.patch, width // self.patch), (height / self.pos_size, width / self.pos_size)
        fits = all(int(self.grid * factor) == side for factor, side in zip(scale, grid, strict=True))
        resized = F.interpolate(
            self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid)),
            **({"scale_factor": scale} if fits else {"size": grid}),
            mode="bicubic",
            align_corners=False,
        )
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


_PAPER = "Bulat et al., Space-time Mixing Attention for Video Transformer, NeurIPS 2021 (arXiv:2106.05968)"


def _entry(name: str, summary: str, frames: int, stride: int, size: int, **defaults: object) -> Entry:
    clip = ClipSpec(frames, stride, size, views=(1, 3), sampling="dense", **HALF)
    return Entry(name, summary, _PAPER, clip, XViT, {"num_classes": 400, **defaults})


ENTRIES = (
    _entry("xvit", "X-ViT: ViT-B/16 with shifted keys and values, 16 frames of 224 px in segments of 8", 16, 16, 224),
    _entry(
        "xvit_tiny", "X-ViT for a CPU: 8 frames of 48 px, learns motion in a few hundred steps", 8, 2, 48,
        num_classes=10, patch=12, pos_size=48, dim=96, depth=4, heads=3, shift_div=4, head="average",
        head_dropout=0.0, init_std=0.12, embed_std=0.3, time_embed_std=0.3,
    ),
)  # fmt: skip
