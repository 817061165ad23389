"""TimeSformer (Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021).

Shapes: B clips, T frames, N patches a frame (H // p by W // p), C channels.
    clip (B, 3, T, H, W) -> patches of each frame (B*T, N, C), plus position
    -> divided: cls (B, 1, C) and patches (B, N, T, C), plus time; joint: the same as one (B, 1 + N*T, C);
       space: each frame on its own (B*T, 1 + N, C), averaged after the last block
    -> norm -> class token (B, C) -> head (B, num_classes)
"""

from __future__ import annotations

from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from .image.vit import ViT, drop_path_rates, init_linear
from .lift.divided import DividedBlock
from .lift.resize import nearest_grid, nearest_sequence
from .model import GREY, ClipSpec, Entry, Model
from .timesformer_weights import TIMESFORMER_WEIGHTS


class TimeSformer(Model):
    """An image ViT over the frames of a clip: (B, 3, T, H, W) -> (B, num_classes).

    attention: "divided" attends over time, then over each frame; "joint" over all patches at once; "space" sees each
    frame alone and averages them. Parameter names are the published ones, those of the ViT plus `time_embed` and
    `temporal_*`. Another T, H or W than built resizes the embeddings by nearest neighbour, as published: a grid of
    another shape with the same number of patches takes the position embedding as it stands.

    At initialisation init_std is the spread of linear weights, embed_std that of the class token and the position
    embedding, time_embed_std that of the time embedding, which is published as zero.
    """

    weight_rules = TIMESFORMER_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        frames: int,
        size: int,
        attention: Literal["divided", "joint", "space"] = "divided",
        patch: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        head_dropout: float = 0.0,
        drop_path: float = 0.1,
        init_std: float = 0.02,
        embed_std: float = 0.02,
        time_embed_std: float = 0.0,
    ) -> None:
        super().__init__()
        if attention not in ("divided", "joint", "space"):
            raise ValueError(f"attention must be 'divided', 'joint' or 'space', got {attention!r}")
        image = ViT(
            num_classes=num_classes, size=size, patch=patch, dim=dim, depth=depth, heads=heads, mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias, norm_eps=norm_eps, dropout=dropout, attention_dropout=attention_dropout,
            drop_path=drop_path, init_std=init_std, embed_std=embed_std,
        )  # fmt: skip
        self.num_features, self.patch, self.attention = dim, patch, attention
        self.cls_token, self.pos_embed = cast(nn.Parameter, image.cls_token), image.pos_embed
        self.patch_embed, self.pos_drop, self.blocks = image.patch_embed, image.pos_drop, image.blocks
        self.time_embed = None
        if attention != "space":
            self.time_embed = nn.Parameter(torch.empty(1, frames, dim))
            nn.init.normal_(self.time_embed, std=time_embed_std)
        if attention == "divided":
            rates = drop_path_rates(drop_path, depth)
            blocks = [DividedBlock(block, dim, rate) for block, rate in zip(image.blocks, rates, strict=True)]
            for block in blocks:  # an own random start for time, where the lift copied the attention over space
                block.temporal_attn.apply(partial(init_linear, std=init_std))
            self.blocks = nn.ModuleList(blocks)
        self.time_drop = nn.Dropout(dropout)
        self.norm, self.head = image.norm, image.head
        self.head_drop = nn.Dropout(head_dropout)

    def forward_features(self, clip: Tensor) -> Tensor:
        """Tokens after the last norm, class token first: (B, 1 + N*T, C) in (h w t) order; "space": (B, 1 + N, C)."""
        self.check_input(clip, smallest=self.patch)
        encode = {"divided": self._divided, "joint": self._joint, "space": self._space}[self.attention]
        return self.norm(encode(clip))

    def embed(self, clip: Tensor) -> Tensor:
        """The class token (B, num_features)."""
        return self.forward_features(clip)[:, 0]

    def no_weight_decay(self) -> set[str]:
        return {"cls_token", "pos_embed"} | ({"time_embed"} if self.time_embed is not None else set())

    def stages(self) -> list[tuple[str, ...]]:
        return [*((f"blocks.{i}.",) for i in range(len(self.blocks))), ("norm.", "head.")]

    def _divided(self, clip: Tensor) -> Tensor:
        cls, x = self._embed_time(clip)
        for block in self.blocks:
            cls, x = self.run(block, cls, x)
        return torch.cat([cls, x.flatten(1, 2)], dim=1)

    def _joint(self, clip: Tensor) -> Tensor:
        cls, x = self._embed_time(clip)
        tokens = torch.cat([cls, x.flatten(1, 2)], dim=1)
        for block in self.blocks:
            tokens = self.run(block, tokens)
        return tokens

    def _space(self, clip: Tensor) -> Tensor:
        cls, x = self._embed_space(clip)
        tokens = self.pos_drop(torch.cat([cls.expand(x.shape[0], -1, -1), x], dim=1))
        for block in self.blocks:
            tokens = self.run(block, tokens)
        return tokens.unflatten(0, (-1, clip.shape[2])).mean(dim=1)

    def _embed_space(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Class token (1, 1, C) and patches (B*T, N, C), each with its position."""
        x = self.patch_embed(clip.transpose(1, 2).flatten(0, 1))
        height, width = clip.shape[-2] // self.patch, clip.shape[-1] // self.patch
        pos: Tensor = self.pos_embed
        if height * width + 1 != pos.shape[1]:
            pos = nearest_grid(pos, (height, width))
        return self.cls_token + pos[:, :1], x + pos[:, 1:]

    def _embed_time(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Class token (B, 1, C) and patches (B, N, T, C), contiguous, with position and time."""
        assert self.time_embed is not None, "space-only attention has no time embedding"
        cls, x = self._embed_space(clip)
        batch, _, frames = clip.shape[:3]
        time: Tensor = self.time_embed
        if frames != time.shape[1]:
            time = nearest_sequence(time, frames)
        x = self.pos_drop(x).unflatten(0, (batch, frames)).transpose(1, 2)
        x = self.time_drop(x.contiguous() + time.unsqueeze(1))
        return self.pos_drop(cls.expand(batch, -1, -1)), x


_PAPER = "Bertasius et al., Is Space-Time Attention All You Need for Video Understanding?, ICML 2021 (arXiv:2102.05095)"


def _entry(name: str, summary: str, frames: int, stride: int, size: int, **defaults: object) -> Entry:
    clip = ClipSpec(frames, stride, size, views=(1, 3), sampling="dense", **GREY)
    return Entry(name, summary, _PAPER, clip, TimeSformer, {"num_classes": 400, **defaults})


ENTRIES = (
    _entry("timesformer", "TimeSformer: ViT-B/16 with divided attention, 8 frames of 224 px", 8, 32, 224),
    _entry("timesformer_hr", "TimeSformer-HR: 16 frames of 448 px", 16, 16, 448),
    _entry("timesformer_l", "TimeSformer-L: 96 frames of 224 px", 96, 4, 224),
    _entry(
        "timesformer_tiny", "TimeSformer for a CPU: 8 frames of 48 px, learns motion in a few hundred steps", 8, 2, 48,
        num_classes=10, patch=12, dim=96, depth=4, heads=3, drop_path=0.0, init_std=0.12, embed_std=0.5,
        time_embed_std=1.0,
    ),
)  # fmt: skip
