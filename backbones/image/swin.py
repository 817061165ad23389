"""Swin (Liu et al., "Hierarchical Vision Transformer using Shifted Windows", ICCV 2021), with the published names.

Shapes: B inputs, a grid of L tokens (an image's (H, W), or a video's (T, H, W), see lift/windows.py), C channels, h
heads, W windows of N places.
    image (B, 3, H, W) -> patch_embed (B, H / 4, W / 4, C)
    -> blocks: gather into windows (B, W, N, C), norm1, attend within each, norm2, mlp, gather back (B, *grid, C)
    -> between stages downsample (B, H / 2, W / 2, 2C) -> norm -> mean (B, C) -> head (B, num_classes)

All parts work on a grid of any rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, library, nn

from ..lift.linear import Linear
from ..lift.windows import MASKED, Windows, permute, relative_offsets, windows_over
from ..model import IMAGENET, Entry, Model, image_clip
from .swin_weights import SWIN_WEIGHTS
from .vit import Block, Mlp, drop_path_rates, init_linear

# Without gradients, a CPU takes a block through its windows a few at a time, so that what it computes on the way stays
# in the cache; likewise for the scores of attention backward.
_ROWS_IN_CACHE = 2**19  # numbers: rows of C channels
_SCORES_IN_CACHE = 2**22  # bytes


# For each group of windows with one mask, in their order: how many they are, and what to add to their scores (h, N, N).
Biases = list[tuple[int, Tensor]]


@library.custom_op("tubelet::attend_biased", mutates_args=(), schema="(Tensor qkv, Tensor bias) -> Tensor")
def _attend_biased(qkv: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v for qkv (n, N, 3, h, d) and bias (h, N, N) on a CPU, where torch's fused kernel
    has no gradient of the bias.

    Forward it is 1.3 to 1.7 times faster than explicit products in fp32, and more in bf16 on a CPU with AMX. Backward,
    products take windows a few at a time; scores are not kept but computed again for the gradient. An operator, and so
    the same in a compiled network. torch's fused kernel takes a mask of two or four axes only.
    """
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None]).transpose(1, 2).flatten(2)


@library.custom_op(
    "tubelet::attend_biased_backward",
    mutates_args=(),
    schema="(Tensor qkv, Tensor bias, Tensor grad) -> (Tensor, Tensor)",
)
def _attend_biased_backward(qkv: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    n, places, _, heads, size = qkv.shape
    packed = _pack(qkv)
    grad = grad.unflatten(2, (heads, size)).transpose(1, 2).reshape(n * heads, places, size)
    grad_packed = torch.empty_like(packed)
    grad_bias = torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))  # a sum over windows
    for part in _score_parts(n, bias):
        (q, k, v), (grad_q, grad_k, grad_v), g = packed[:, part], grad_packed[:, part], grad[part]
        p = _probabilities(q, k, bias)
        torch.bmm(p.transpose(1, 2), g, out=grad_v)
        s = torch.bmm(g, v.transpose(1, 2))
        torch.ops.aten._softmax_backward_data.out(s, p, -1, s.dtype, grad_input=s)
        for window in s.view(-1, heads, places, places):  # a sum over them is up to 5 times slower in bf16
            grad_bias += window
        torch.bmm(s, k, out=grad_q)
        torch.bmm(s.transpose(1, 2), q, out=grad_k)
    grad_packed[0] *= size**-0.5
    return grad_packed.view(3, n, heads, places, size).permute(1, 3, 0, 2, 4), grad_bias.to(bias.dtype)


@_attend_biased.register_fake
def _(qkv: Tensor, bias: Tensor) -> Tensor:
    n, places, _, heads, size = qkv.shape
    return qkv.new_empty(n, places, heads * size)


@_attend_biased_backward.register_fake
def _(qkv: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return qkv.new_empty([qkv.shape[i] for i in (2, 0, 3, 1, 4)]).permute(1, 3, 0, 2, 4), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return _attend_biased_backward(*ctx.saved_tensors, grad)


_attend_biased.register_autograd(_gradients, setup_context=_keep)


def _pack(qkv: Tensor) -> Tensor:
    """(n, N, 3, h, d) -> (3, n * h, N, d), each of its three contiguous, the queries scaled."""
    packed = qkv.permute(2, 0, 3, 1, 4).clone(memory_format=torch.contiguous_format).flatten(1, 2)
    packed[0] *= qkv.shape[-1] ** -0.5
    return packed


def _score_parts(n: int, bias: Tensor) -> Iterator[slice]:
    """Slices of n * heads whose scores stay in the cache, each of whole windows."""
    heads = bias.shape[0]
    step = max(1, _SCORES_IN_CACHE // (bias.numel() * bias.element_size()))
    for start in range(0, n, step):
        yield slice(start * heads, min(start + step, n) * heads)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    every = bias.expand(q.shape[0] // bias.shape[0], *bias.shape)  # window
    scores = every.clone(memory_format=torch.contiguous_format).flatten(0, 1).baddbmm_(q, k.transpose(1, 2))
    return torch.softmax(scores, -1, out=scores)


def attend_biased(qkv: Tensor, bias: Tensor, dropout_p: float) -> Tensor:
    """Softmax attention with a bias for each head: qkv (n, N, 3, h, d), bias (h, N, N) -> (n, N, h * d)."""
    if qkv.device.type == "cpu" and dropout_p == 0.0 and not torch.compiler.is_exporting():
        return _attend_biased(qkv, bias)
    q, k, v = qkv.transpose(1, 3).unbind(2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p).transpose(1, 2).flatten(2)


class WindowAttention(nn.Module):
    """Multi-head self-attention within each window, biased by relative position: (B, W, N, C) -> (B, W, N, C)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        window: Sequence[int],
        qkv_bias: bool = True,
        dropout: float = 0.0,
        score_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} does not divide into {heads} heads")
        self.heads, self.window, self.score_dropout = heads, tuple(window), score_dropout
        self.relative_position_bias_table = nn.Parameter(torch.empty(relative_offsets(window), heads))
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def biases(self, windows: Windows) -> Biases:
        """The biases of relative position, with the windows' masks."""
        table = self.relative_position_bias_table
        wide = table.float() if table.element_size() < 4 else table  # gathering 16-bit numbers is slow on a CPU
        bias = wide.t().contiguous().gather(1, windows.pairs.flatten().expand(self.heads, -1)).to(table.dtype)
        bias = bias.view(self.heads, windows.size, windows.size)
        return [(count, bias if mask is None else bias.add(mask, alpha=MASKED)) for count, mask in windows.masks]

    def forward(self, x: Tensor, biases: Biases) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        dropout_p = self.score_dropout if self.training else 0.0
        parts = qkv.split([count for count, _ in biases], dim=1) if len(biases) > 1 else (qkv,)
        mixed = [
            attend_biased(part.flatten(0, 1), bias.to(qkv.dtype), dropout_p).unflatten(0, part.shape[:2])
            for part, (_, bias) in zip(parts, biases, strict=True)
        ]
        return self.proj_drop(self.proj(torch.cat(mixed, dim=1) if len(mixed) > 1 else mixed[0]))


class SwinBlock(Block):
    """Attention within windows, shifted or not, then the MLP, over a grid of tokens (B, *grid, C).

    The grid is put in the windows' order once, and back once; everything between acts on each token or each window.
    See `windows_over` for `shrink` and `pad_last`.
    """

    attn: WindowAttention

    def __init__(
        self, dim: int, attn: WindowAttention, mlp: nn.Module, norm_eps: float, drop_path: float, shifted: bool,
        shrink: bool, pad_last: bool,
    ) -> None:  # fmt: skip
        super().__init__(dim, attn, mlp, norm_eps, drop_path)
        self.shifted, self.shrink, self.pad_last = shifted, shrink, pad_last

    def forward(self, x: Tensor) -> Tensor:
        shift = [side // 2 if self.shifted else 0 for side in self.attn.window]
        windows = windows_over(x, self.attn.window, shift, self.shrink, self.pad_last)
        biases, tokens = self.attn.biases(windows), x.flatten(1, -2)
        alone = torch.is_grad_enabled() or self.training or torch.compiler.is_compiling()
        if x.device.type == "cpu" and not alone:
            return self._in_parts(tokens, windows, biases).view_as(x)
        rows = self._rows(permute(tokens, windows.order, windows.places), windows, biases)
        return permute(rows, windows.places, windows.order).view_as(x)

    def _rows(self, rows: Tensor, windows: Windows, biases: Biases) -> Tensor:
        """The block on tokens (B, L, C) in the windows' order."""
        mixed = windows.drain(self.attn(windows.fill(self.norm1(rows)), biases))
        rows = rows + self.drop_path(mixed)
        return rows + self.drop_path(self.mlp(self.norm2(rows)))

    def _in_parts(self, tokens: Tensor, windows: Windows, biases: Biases) -> Tensor:
        """The same, a few windows at a time, so that what lies between stays in a CPU's cache."""
        out = torch.empty_like(tokens)
        most = max(1, _ROWS_IN_CACHE // (windows.size * tokens.shape[-1]))
        start = 0
        for count, bias in biases:
            step = min(most, count)
            samples = max(1, most // step)
            for first in range(start, start + count, step):
                last = min(first + step, start + count)
                part = windows.part(first, last)
                for some, done in zip(tokens.split(samples), out.split(samples), strict=True):
                    rows = self._rows(some.index_select(1, part.order), part, [(last - first, bias)])
                    done.index_copy_(1, part.order, rows)
            start += count
        return out


class PatchEmbed(nn.Module):
    """Linear embedding of patches, and a norm: (B, 3, *pixels) -> (B, *grid, C).

    `pad` fills the last patch along an axis with zeros; without it, pixels beyond the last whole patch are not seen.
    """

    def __init__(self, patch: Sequence[int], dim: int, norm_eps: float, norm: bool, pad: bool) -> None:
        super().__init__()
        convolution = nn.Conv3d if len(patch) == 3 else nn.Conv2d
        self.proj = convolution(3, dim, tuple(patch), stride=tuple(patch))  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if norm else nn.Identity()
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        patch = self.proj.kernel_size
        if self.pad:
            short = [-side % p for side, p in zip(x.shape[2:], patch, strict=True)]
            if any(short):
                x = F.pad(x, [width for s in reversed(short) for width in (0, s)])
        return self.norm(self.proj(x).movedim(1, -1))


class PatchMerging(nn.Module):
    """Half of H and W, twice the channels: each 2 x 2 tokens side by side, a norm, a linear map."""

    def __init__(self, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=norm_eps)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-3:-1]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = x.unflatten(-3, (-1, 2)).unflatten(-2, (-1, 2))  # (..., H / 2, 2, W / 2, 2, C)
        return self.reduction(self.norm(x.transpose(-4, -3).transpose(-3, -2).flatten(-3)))


class Stage(nn.Module):
    """Blocks on one grid, windows shifted in every other one, and the step to the next stage's grid."""

    blocks: nn.ModuleList
    downsample: nn.Module

    def __init__(self, blocks: list[SwinBlock], downsample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class Swin(Model):
    """Swin as an image classifier: (B, 3, H, W) -> (B, num_classes).

    edges: what becomes of a grid that windows do not divide. "pad" pads it, then shifts (torchvision); "timm" pads
    after shifting, and builds windows no longer than the grid of `size`, tables included; "shrink" pads before
    shifting and takes a window as long as the grid where that is shorter (Video Swin). Where windows of the published
    size divide the grid, the three are one. init_std is the spread of linear weights at initialisation, bias_std that
    of the tables of relative positions.
    """

    axes: ClassVar[tuple[str, ...]] = ("B", "3", "H", "W")
    weight_rules = SWIN_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        size: int = 224,
        patch: int | Sequence[int] = 4,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int | Sequence[int] = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-5,
        patch_norm: bool = True,
        edges: Literal["pad", "timm", "shrink"] = "pad",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        head_dropout: float = 0.0,
        drop_path: float = 0.2,
        init_std: float = 0.02,
        bias_std: float = 0.02,
    ) -> None:
        super().__init__()
        patch, window = sides("patch", patch, 2), sides("window", window, 2)
        if edges not in ("pad", "timm", "shrink"):
            raise ValueError(f"edges must be 'pad', 'timm' or 'shrink', got {edges!r}")
        if not depths or len(depths) != len(heads) or min(*depths, *heads) < 1:
            raise ValueError(f"depths and heads must name as many stages, of at least 1, got {depths} and {heads}")
        self.smallest = 1 if edges == "shrink" else max(patch)
        self.patch_embed = PatchEmbed(patch, dim, norm_eps, patch_norm, pad=edges == "shrink")
        self.pos_drop = nn.Dropout(dropout)
        rates = iter(drop_path_rates(drop_path, sum(depths)))
        grid = [size // p for p in patch]
        stages = []
        for i, (depth, h) in enumerate(zip(depths, heads, strict=True)):
            width = dim * 2**i
            fitting = [min(pair) for pair in zip(window, grid, strict=True)] if edges == "timm" else window
            blocks = [
                SwinBlock(
                    width,
                    attn=WindowAttention(width, h, fitting, qkv_bias, dropout, attention_dropout),
                    mlp=Mlp(width, int(width * mlp_ratio + 1e-6), dropout),
                    norm_eps=norm_eps,
                    drop_path=next(rates),
                    shifted=j % 2 == 1,
                    shrink=edges == "shrink",
                    pad_last=edges == "timm",
                )
                for j in range(depth)
            ]
            last = i == len(depths) - 1
            stages.append(Stage(blocks, nn.Identity() if last else PatchMerging(width, norm_eps)))
            grid = [-(-side // 2) for side in grid]
        self.layers = nn.ModuleList(stages)
        self.num_features = width
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.head_drop = nn.Dropout(head_dropout)
        self.head = nn.Linear(width, num_classes)
        self.apply(partial(init_linear, std=init_std))
        self.init_tables(bias_std)

    def forward_features(self, x: Tensor) -> Tensor:
        """The normalised tokens of the last stage: (B, *grid, num_features)."""
        self.check_input(x, smallest=self.smallest)
        x = self.pos_drop(self.patch_embed(x))
        for stage in cast(list[Stage], self.layers):
            for block in stage.blocks:
                x = self.run(block, x)
            x = stage.downsample(x)
        return self.norm(x)

    def embed(self, x: Tensor) -> Tensor:
        """The mean over the grid (B, num_features)."""
        return self.forward_features(x).flatten(1, -2).mean(dim=1)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith("relative_position_bias_table")}

    def stages(self) -> list[tuple[str, ...]]:
        names: list[tuple[str, ...]] = []
        for i, stage in enumerate(cast(list[Stage], self.layers)):
            names += [(f"layers.{i}.blocks.{j}.",) for j in range(len(stage.blocks))]
            if i:
                first = len(names) - len(stage.blocks)
                names[first] = (f"layers.{i - 1}.downsample.", *names[first])
        return [*names, ("norm.", "head.")]

    def blocks(self) -> list[SwinBlock]:
        """The blocks of all stages, in order."""
        return [block for stage in cast(list[Stage], self.layers) for block in cast(list[SwinBlock], stage.blocks)]

    def init_tables(self, std: float) -> None:
        for block in self.blocks():
            nn.init.trunc_normal_(block.attn.relative_position_bias_table, std=std)


def sides(name: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """A side for each of `rank` axes, from one number for all or one for each; else ValueError."""
    given = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(given) != rank or not all(isinstance(side, int) and side >= 1 for side in given):
        raise ValueError(f"{name} must be a whole number of at least 1, or {rank} of them, got {value!r}")
    return given


_PAPER = (
    "Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, ICCV 2021 (arXiv:2103.14030)"
)
SIZES: dict[str, dict[str, Any]] = {
    "t": {"dim": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
    "s": {"dim": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)},
    "b": {"dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
    "l": {"dim": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48)},
}


def _entry(letter: str, drop_path: float) -> Entry:
    defaults = {"num_classes": 1000, "drop_path": drop_path, **SIZES[letter]}
    return Entry(
        f"swin_{letter}", f"Swin-{letter.upper()}, 224 px", _PAPER, image_clip(IMAGENET), Swin, defaults, kind="image"
    )


ENTRIES = (_entry("t", 0.2), _entry("s", 0.3), _entry("b", 0.5), _entry("l", 0.2))
