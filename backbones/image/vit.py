"""The vision transformer (Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021), with timm's names.

Shapes: B images, (3, H, W) pixels, patches of p x p, N = (H // p) * (W // p), C channels, h heads.
    image (B, 3, H, W) -> patch_embed (B, N, C) -> class token and positions (B, 1 + N, C) -> blocks -> norm
    -> pool (B, C) -> head (B, num_classes)
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..lift.linear import Linear
from ..lift.resize import bicubic_grid
from ..model import HALF, IMAGENET, Entry, Model, image_clip
from .vit_weights import VIT_WEIGHTS


class PatchEmbed(nn.Module):
    """Linear embedding of patches: (B, 3, H, W) -> (B, N, C). Pixels beyond the last whole patch are not seen."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


# Up to so many tokens explicit products are the faster attention in bf16 on a CPU (benchmarks/attention.py): in a
# training step by 2 to 8, since the gradient of torch's fused kernel is slow there; without gradients by 1.3 to 2.5.
SHORT_ON_CPU = 512
FEW_ON_CPU = 15


def attend(q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
    """Softmax attention (..., heads, N, C / heads), by the kernel that is fast where the tensors are."""
    most = SHORT_ON_CPU if q.requires_grad else FEW_ON_CPU
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.shape[-2] <= most:
        scores = (q * q.shape[-1] ** -0.5).contiguous() @ k.contiguous().transpose(-2, -1)
        return F.dropout(scores.softmax(-1), dropout_p) @ v.contiguous()
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p)


class Attention(nn.Module):
    """Multi-head self-attention over the last token axis: (..., N, C) -> (..., N, C)."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True, dropout: float = 0.0, score_dropout: float = 0.0):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} does not divide into {heads} heads")
        self.heads, self.score_dropout = heads, score_dropout
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (..., N, 3, h, C / h): q, k, v are views of it
        q, k, v = qkv.transpose(-4, -2).unbind(-3)
        y = attend(q, k, v, self.score_dropout if self.training else 0.0)
        return self.proj_drop(self.proj(y.transpose(-3, -2).flatten(-2)))


class Mlp(nn.Module):
    """Two layers with a GELU between, exact or approximated by a tanh: (..., C) -> (..., C)."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate, of the GELU, must be 'none' or 'tanh', got {approximate!r}")
        self.fc1 = Linear(dim, hidden)
        self.act = nn.GELU(approximate)
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self._activate(self.fc1(x)))))

    def _activate(self, x: Tensor) -> Tensor:
        """The GELU, in place where no one will miss the input: on a CPU new memory takes longer than the function, and
        so the whole MLP 1.08 times as long (1568 tokens of 768 channels, fp32)."""
        missed = torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu"
        if missed or self.fc1._forward_hooks or self.act._forward_hooks or self.act._forward_pre_hooks:
            return self.act(x)
        return torch.ops.aten.gelu_(x, approximate=self.act.approximate)


class LayerScale(nn.Module):
    """A learnt factor for each channel of a residual (CaiT, section 2; DeiT III)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: while training, drop a residual at this rate for each entry of its first axis."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return self.together(x)[0]

    def together(self, *residuals: Tensor) -> tuple[Tensor, ...]:
        """Drop the same samples from each of several residuals."""
        if not self.training or self.rate == 0.0:
            return residuals
        first = residuals[0]
        keep = first.new_empty(first.shape[0]).bernoulli_(1 - self.rate).div_(1 - self.rate)
        return tuple(x * keep.view(-1, *[1] * (x.ndim - 1)) for x in residuals)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class Block(nn.Module):
    """A pre-norm transformer block: x + attn(norm1(x)), then x + mlp(norm2(x)), each scaled and dropped as asked.

    x is (B, ..., N, C) as far as the block is concerned; which axes its tokens mix over is the affair of `attn`.
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp: nn.Module,
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=norm_eps), attn
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=norm_eps), mlp
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


def init_linear(module: nn.Module, std: float) -> None:
    """The initialisation of ViT and TimeSformer: linear weights truncated normal, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates that grow linearly with depth, from 0 in the first block to `last`."""
    return [last * i / max(depth - 1, 1) for i in range(depth)]


class ViT(Model):
    """ViT as an image classifier: (B, 3, H, W) -> (B, num_classes).

    pool: "token" classifies the class token, "mean" the average of the patches. With `fc_norm` the last norm comes
    after pooling, as in fine-tuned MAE. `embed_class=False` gives the class token no position and `layer_scale`
    scales the residuals, as in DeiT III. Another H or W than `size` resizes the position embedding, bicubic as timm
    does. `approximate` is that of the GELU. init_std is the spread of linear weights at initialisation, embed_std that
    of the class token and positions.
    """

    axes = ("B", "3", "H", "W")
    weight_rules = VIT_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        size: int,
        patch: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        approximate: Literal["none", "tanh"] = "none",
        norm_eps: float = 1e-6,
        pool: Literal["token", "mean"] = "token",
        fc_norm: bool = False,
        class_token: bool = True,
        embed_class: bool = True,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        head_dropout: float = 0.0,
        drop_path: float = 0.0,
        init_std: float = 0.02,
        embed_std: float = 0.02,
    ) -> None:
        super().__init__()
        if pool not in ("token", "mean") or (pool == "token" and not class_token):
            raise ValueError(f"pool must be 'mean' or, with a class token, 'token'; got {pool!r}")
        if size < patch:
            raise ValueError(f"size {size} holds no patch of {patch} pixels")
        self.num_features, self.patch, self.grid, self.pool = dim, patch, size // patch, pool
        self.prefix = int(class_token)
        self.embedded_prefix = int(class_token and embed_class)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, self.embedded_prefix + self.grid**2, dim))
        self.patch_embed = PatchEmbed(patch, dim)
        self.pos_drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                attn=Attention(dim, heads, qkv_bias, dropout, attention_dropout),
                # 100 / 48 * 48 is a little less than 100
                mlp=Mlp(dim, int(dim * mlp_ratio + 1e-6), dropout, approximate),
                norm_eps=norm_eps,
                drop_path=rate,
                layer_scale=layer_scale,
            )
            for rate in drop_path_rates(drop_path, depth)
        )
        self.norm = nn.Identity() if fc_norm else nn.LayerNorm(dim, eps=norm_eps)
        self.fc_norm = nn.LayerNorm(dim, eps=norm_eps) if fc_norm else nn.Identity()
        self.head_drop = nn.Dropout(head_dropout)
        self.head = nn.Linear(dim, num_classes)
        self.apply(partial(init_linear, std=init_std))
        for embedding in (self.cls_token, self.pos_embed):
            if embedding is not None:
                nn.init.trunc_normal_(embedding, std=embed_std)

    def forward_features(self, image: Tensor) -> Tensor:
        """Tokens after the last norm: (B, 1 + N, C), the class token first if there is one."""
        self.check_input(image, smallest=self.patch)
        x = self.patch_embed(image)
        pos = self._positions(image.shape[-2] // self.patch, image.shape[-1] // self.patch)
        x = x + pos[:, self.embedded_prefix :]
        if self.cls_token is not None:
            cls = self.cls_token + pos[:, :1] if self.embedded_prefix else self.cls_token
            x = torch.cat([cls.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.pos_drop(x)
        for block in self.blocks:
            x = self.run(block, x)
        return self.norm(x)

    def embed(self, image: Tensor) -> Tensor:
        """The pooled vector (B, num_features)."""
        tokens = self.forward_features(image)
        pooled = tokens[:, 0] if self.pool == "token" else tokens[:, self.prefix :].mean(dim=1)
        return self.fc_norm(pooled)

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed"} if self.cls_token is None else {"pos_embed", "cls_token"}

    def stages(self) -> list[tuple[str, ...]]:
        return [*((f"blocks.{i}.",) for i in range(len(self.blocks))), ("norm.", "fc_norm.", "head.")]

    def _positions(self, height: int, width: int) -> Tensor:
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        return bicubic_grid(self.pos_embed, (height, width), self.embedded_prefix)


_VIT = "Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021 (arXiv:2010.11929)"
_DEIT3 = "Touvron et al., DeiT III: Revenge of the ViT, ECCV 2022 (arXiv:2204.07118)"


def _entry(name: str, summary: str, **defaults: object) -> Entry:
    deit = name.startswith("deit3")
    clip = image_clip(IMAGENET if deit else HALF)
    if deit:
        defaults |= {"layer_scale": 1e-6, "embed_class": False}
    return Entry(name, summary, _DEIT3 if deit else _VIT, clip, ViT, {"num_classes": 1000, **defaults}, kind="image")


ENTRIES = (
    _entry("vit_t_16", "ViT-Ti/16, 224 px", dim=192, heads=3),
    _entry("vit_s_16", "ViT-S/16, 224 px", dim=384, heads=6),
    _entry("vit_b_16", "ViT-B/16, 224 px"),
    _entry("vit_b_32", "ViT-B/32, 224 px", patch=32),
    _entry("vit_l_16", "ViT-L/16, 224 px", dim=1024, depth=24, heads=16),
    _entry("deit3_s_16", "DeiT III small, 224 px", dim=384, heads=6),
    _entry("deit3_b_16", "DeiT III base, 224 px"),
)
