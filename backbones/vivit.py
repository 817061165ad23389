"""ViViT (Arnab et al., "ViViT: A Video Vision Transformer", ICCV 2021), its four models.

Shapes: B clips, tubelets of t x h x w pixels, T of them in time (frames // t), N at each time, C channels.
    clip (B, 3, frames, H, W) -> tubelets (B, T, N, C), plus position
    -> joint (model 1): one sequence (B, 1 + T*N, C), class token first
       factorised_encoder (2): each time on its own (B*T, 1 + N, C), then their class tokens (B, 1 + T, C)
       factorised_attention (3), factorised_heads (4): (B, T, N, C), no class token
    -> norm -> class token or mean (B, C) -> head (B, num_classes)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from .image.vit import ViT, drop_path_rates, init_linear
from .lift.factorised import FactorisedBlock, FactorisedHeads, Order
from .lift.inflate import How
from .lift.resize import linear_grid
from .lift.tubelets import TubeletEmbed
from .model import HALF, ClipSpec, Entry, Model
from .vivit_weights import VIVIT_WEIGHTS

Variant = Literal["joint", "factorised_encoder", "factorised_attention", "factorised_heads"]
_POOLS = {"joint": "token", "factorised_encoder": "token", "factorised_attention": "mean", "factorised_heads": "mean"}


class ViViT(Model):
    """An image ViT over the tubelets of a clip: (B, 3, T, H, W) -> (B, num_classes).

    variant: "joint" attends over all tubelets at once; "factorised_encoder" over each time, then `temporal_depth`
    blocks over what was made of each (none averages them); "factorised_attention" over time and space in turn, in
    `attention_order`; "factorised_heads" over time with one half of the heads and over space with the other. pool
    "token" or "mean" of the last tokens, None as published: token for the first two variants, which alone have one.
    tubelet is (frames, height, width); `inflation` says how an image's patch kernel becomes that of a tubelet.

    Frames are `size` x `size`, or `size` x `width`. Another T, H or W than built resizes the position embeddings,
    linearly along each axis. Parameter names are those of the image ViT, and `temporal_*` for what is new.
    """

    weight_rules = VIVIT_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        frames: int,
        size: int,
        width: int | None = None,
        variant: Variant = "factorised_encoder",
        attention_order: Order = "time_space",
        temporal_depth: int = 4,
        pool: Literal["token", "mean"] | None = None,
        tubelet: Sequence[int] = (2, 16, 16),
        inflation: How = "centre",
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        approximate: Literal["none", "tanh"] = "tanh",
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        head_dropout: float = 0.0,
        drop_path: float = 0.0,
        init_std: float = 0.02,
        embed_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.grid = _grid(frames, size, size if width is None else width, tubelet)
        pooled = _POOLS.get(variant) if pool is None else pool
        _check(variant, attention_order, pooled, temporal_depth)
        build = partial(
            ViT, num_classes=num_classes, size=1, patch=1, dim=dim, heads=heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
            approximate=approximate, norm_eps=norm_eps, dropout=dropout, attention_dropout=attention_dropout,
            drop_path=drop_path, init_std=init_std,
        )  # fmt: skip
        image = build(depth=depth)
        self.num_features, self.variant, self.inflation = dim, variant, inflation
        self.approximate, self.prefix = approximate, int(pooled == "token")
        self.cls_token = self._embedding(1, dim, embed_std) if self.prefix else None
        times, height, width = self.grid
        places = height * width * (1 if variant == "factorised_encoder" else times)
        self.pos_embed = self._embedding(self.prefix + places, dim, embed_std)
        patch = (tubelet[1], tubelet[2])
        self.patch_embed = TubeletEmbed(nn.Conv2d(3, dim, patch, patch), tubelet[0], inflation)
        self.pos_drop, self.blocks, self.norm = image.pos_drop, image.blocks, image.norm
        if variant == "factorised_attention":
            rates = zip(image.blocks, drop_path_rates(drop_path, depth), strict=True)
            over_both = [FactorisedBlock(each, heads, attention_order, rate, attention_dropout) for each, rate in rates]
            for block in over_both:  # an own random start for time, where the lift copied the attention over space
                init_linear(block.temporal_attn.qkv, init_std)
            self.blocks = nn.ModuleList(over_both)
        elif variant == "factorised_heads":
            for plain in self.blocks:
                plain.attn = FactorisedHeads(cast(nn.Module, plain.attn), heads, attention_dropout)
        self.temporal_depth = temporal_depth if variant == "factorised_encoder" else 0
        if self.temporal_depth:
            over_time = build(depth=temporal_depth)
            self.temporal_cls_token = self._embedding(1, dim, embed_std) if self.prefix else None
            self.temporal_pos_embed = self._embedding(self.prefix + times, dim, embed_std)
            self.temporal_blocks, self.temporal_norm = over_time.blocks, over_time.norm
        self.head_drop, self.head = nn.Dropout(head_dropout), image.head

    def forward_features(self, clip: Tensor) -> Tensor:
        """Tokens after the last norm, the class token first if there is one: those of all tubelets in (t h w) order,
        (B, 1 + T*N, C); of a factorised encoder those of each time, (B, 1 + T, C)."""
        t, h, w = self.patch_embed.proj.kernel_size
        self.check_input(clip, smallest=max(h, w), shortest=t)
        grid = (clip.shape[2] // t, clip.shape[3] // h, clip.shape[4] // w)
        x = self.patch_embed(clip)
        if self.variant == "factorised_encoder":
            return self._over_time(self._each_time(x, grid), grid)
        x = self._place(x.flatten(1, 2), self.cls_token, self.pos_embed, self.grid, grid)
        if self.variant != "joint":
            x = x.unflatten(1, (grid[0], -1))
        for block in self.blocks:
            x = self.run(block, x)
        return self.norm(x if self.variant == "joint" else x.flatten(1, 2))

    def embed(self, clip: Tensor) -> Tensor:
        """The class token or the mean of all tokens (B, num_features)."""
        tokens = self.forward_features(clip)
        averaged = self.variant == "factorised_encoder" and not self.temporal_depth
        return tokens.mean(dim=1) if averaged else self._pool(tokens)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith(("cls_token", "pos_embed"))}

    def stages(self) -> list[tuple[str, ...]]:
        blocks: list[tuple[str, ...]] = [(f"blocks.{i}.",) for i in range(len(self.blocks))]
        if not self.temporal_depth:
            return [*blocks, ("norm.", "head.")]
        over_time: list[tuple[str, ...]] = [(f"temporal_blocks.{i}.",) for i in range(self.temporal_depth)]
        over_time[0] += ("norm.", "temporal_cls_token", "temporal_pos_embed")
        return [*blocks, *over_time, ("temporal_norm.", "head.")]

    def _each_time(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The spatial encoder: tubelets (B, T, N, C) -> the class token or mean of each time (B, T, C)."""
        batch, times = x.shape[:2]
        x = self._place(x.flatten(0, 1), self.cls_token, self.pos_embed, self.grid[1:], grid[1:])
        for block in self.blocks:
            x = self.run(block, x)
        return self._pool(self.norm(x)).unflatten(0, (batch, times))

    def _over_time(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The temporal encoder: (B, T, C) -> (B, 1 + T, C); without blocks, the times as they are."""
        if not self.temporal_depth:
            return x
        x = self._place(x, self.temporal_cls_token, self.temporal_pos_embed, self.grid[:1], grid[:1])
        for block in self.temporal_blocks:
            x = self.run(block, x)
        return self.temporal_norm(x)

    def _place(
        self, x: Tensor, cls: Tensor | None, pos: Tensor, made_for: tuple[int, ...], grid: tuple[int, ...]
    ) -> Tensor:
        """Positions added, those made for one grid taken to another, and the class token, if any, put first."""
        if grid != made_for:
            pos = linear_grid(pos, made_for, grid, self.prefix)
        x = x + pos[:, self.prefix :]
        if cls is not None:
            x = torch.cat([(cls + pos[:, :1]).expand(x.shape[0], -1, -1), x], dim=1)
        return self.pos_drop(x)

    def _pool(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0] if self.prefix else tokens.mean(dim=1)

    @staticmethod
    def _embedding(entries: int, dim: int, std: float) -> nn.Parameter:
        return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, entries, dim), std=std))


def _grid(frames: int, size: int, width: int, tubelet: Sequence[int]) -> tuple[int, int, int]:
    """How many tubelets a clip holds along time, height and width."""
    if len(tubelet) != 3 or min(tubelet) < 1:
        raise ValueError(f"tubelet must be (frames, height, width), each at least 1, got {tubelet!r}")
    times, rows, columns = (side // part for side, part in zip((frames, size, width), tubelet, strict=True))
    if min(times, rows, columns) < 1:
        raise ValueError(f"{frames} frames of {size} x {width} hold no tubelet of {tuple(tubelet)}")
    return times, rows, columns


def _check(variant: str, attention_order: str, pool: str | None, temporal_depth: int) -> None:
    orders, pools = ("time_space", "space_time"), ("token", "mean") if _POOLS.get(variant) == "token" else ("mean",)
    for name, value, known in (
        ("variant", variant, tuple(_POOLS)), ("attention_order", attention_order, orders), ("pool", pool, pools),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
    if temporal_depth < 0:
        raise ValueError(f"temporal_depth must be at least 0, got {temporal_depth}")


_PAPER = "Arnab et al., ViViT: A Video Vision Transformer, ICCV 2021 (arXiv:2103.15691)"


def _entry(name: str, summary: str, frames: int = 32, size: int = 224, **defaults: object) -> Entry:
    clip = ClipSpec(frames, 2, size, views=(4, 3), sampling="dense", **HALF)
    return Entry(name, summary, _PAPER, clip, ViViT, {"num_classes": 400, **defaults})


ENTRIES = (
    _entry("vivit_b", "ViViT-B/16x2: ViT-B over tubelets of 2 frames, factorised encoder unless told otherwise"),
    _entry(
        "vivit_l", "ViViT-L/16x2; its released factorised encoders for Kinetics have temporal_depth=24", dim=1024,
        depth=24, heads=16,
    ),
    _entry(
        "vivit_tiny", "ViViT for a CPU: 8 frames of 48 px", frames=8, size=48, num_classes=10, tubelet=(2, 12, 12),
        dim=96, depth=3, temporal_depth=2, heads=4, init_std=0.12, embed_std=0.5,
    ),
)  # fmt: skip
