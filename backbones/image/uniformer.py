"""UniFormer for images (Li et al., "UniFormer: Unifying Convolution and Self-attention for Visual Recognition", 2022).

Shapes: B images, C1..C4 channels of the four stages.
    image (B, 3, H, W) -> patch_embed1, blocks1 (B, C1, H/4, W/4) -> 2 (B, C2, H/8, W/8)
    -> 3 (B, C3, H/16, W/16) -> 4 (B, C4, H/32, W/32) -> norm -> mean (B, C4) -> head (B, num_classes)
Memory is channels-last throughout, that is (B, H, W, C): the norms over channels, the linear layers of stages 3 and 4
and the 1 x 1 convolutions read it without a copy. Every module acts on whatever axes follow (B, C), so that a lift to
video has only convolutions and batch norms to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from ..model import IMAGENET, Entry, Model, image_clip
from .uniformer_weights import UNIFORMER_IMAGE_WEIGHTS
from .vit import Attention, Block, DropPath, Mlp, drop_path_rates, init_linear


class PatchEmbed(nn.Module):
    """Embedding of patches beside each other, normed over channels. What is beyond the last whole patch is not seen."""

    def __init__(self, channels: int, dim: int, patch: int, norm_eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1)


class OverlapEmbed(nn.Module):
    """Embedding of overlapping patches: `halvings` convolutions of stride 2, each with a batch norm."""

    def __init__(self, channels: int, dim: int, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(halvings):
            width = dim // 2 ** (halvings - 1 - i)
            layers += [nn.GELU()] if i else []
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width)]
            channels = width
        self.proj = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return x.movedim(1, -1).contiguous().movedim(-1, 1)


class ConvMlp(Mlp):
    """The MLP as 1 x 1 convolutions: (B, C, ...) -> (B, C, ...)."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(dim, hidden, dropout)
        self.fc1, self.fc2 = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)  # type: ignore[assignment]


class LocalBlock(nn.Module):
    """Relation to what is near: a learnt weight for each offset and channel, between two 1 x 1 convolutions.

    x + pos_embed(x), then x + conv2(attn(conv1(norm1(x)))), then x + mlp(norm2(x)), on (B, C, ...).
    """

    def __init__(
        self, dim: int, hidden: int, pos_kernel: int, local_kernel: int, dropout: float, drop_path: float
    ) -> None:
        super().__init__()
        self.pos_embed = _depthwise(dim, pos_kernel)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv1, self.conv2 = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 1)
        self.attn = _depthwise(dim, local_kernel)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = ConvMlp(dim, hidden, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.drop_path(self.conv2(self.attn(self.conv1(self.norm1(x)))))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class GlobalBlock(Block):
    """Relation to everything: x + pos_embed(x), then a transformer block over all positions at once; on (B, C, ...)."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, pos_kernel: int, norm_eps: float, drop_path: float,
                 layer_scale: float | None) -> None:  # fmt: skip
        super().__init__(dim, attn, mlp, norm_eps, drop_path, layer_scale)
        self.pos_embed = _depthwise(dim, pos_kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        tokens = super().forward(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class ImageUniFormer(Model):
    """UniFormer as an image classifier: (B, 3, H, W) -> (B, num_classes). Any H and W of at least a patch will do.

    dim, depth and patch are of the four stages: channels, blocks, and by how much each embedding shrinks the sides.
    Stages 1 and 2 relate by convolutions of local_kernel, stages 3 and 4 by attention with heads of about head_dim
    channels; each block begins with a position embedding, a convolution of pos_kernel. `conv_stem` embeds overlapping
    patches (it then shrinks by 4, 2, 2, 2) and `layer_scale` scales the residuals of stages 3 and 4. norm_eps is of
    the blocks' LayerNorms, patch_norm_eps of the embeddings'. init_std is the spread of linear weights at the start.
    """

    axes: ClassVar[tuple[str, ...]] = ("B", "3", "H", "W")
    weight_rules = UNIFORMER_IMAGE_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        dim: Sequence[int] = (64, 128, 320, 512),
        depth: Sequence[int] = (3, 4, 8, 3),
        head_dim: int = 64,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        patch: Sequence[int] = (4, 2, 2, 2),
        pos_kernel: int = 3,
        local_kernel: int = 5,
        conv_stem: bool = False,
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
        patch_norm_eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        head_dropout: float = 0.0,
        drop_path: float = 0.0,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        _check_sizes(dim, depth, patch, head_dim, pos_kernel, local_kernel, conv_stem)
        self.num_features, self.norm_eps = dim[3], norm_eps
        self.smallest = 1 if conv_stem else patch[0] * patch[1] * patch[2] * patch[3]
        hidden = [int(width * mlp_ratio + 1e-6) for width in dim]  # 100 / 48 * 48 is a little less than 100
        rates = iter(drop_path_rates(drop_path, sum(depth)))

        def embed(stage: int) -> nn.Module:
            channels = 3 if stage == 0 else dim[stage - 1]
            if conv_stem:
                return OverlapEmbed(channels, dim[stage], halvings=2 if stage == 0 else 1)
            return PatchEmbed(channels, dim[stage], patch[stage], patch_norm_eps)

        def local(stage: int) -> nn.Module:
            return LocalBlock(dim[stage], hidden[stage], pos_kernel, local_kernel, dropout, next(rates))

        def everywhere(stage: int) -> nn.Module:
            attn = Attention(dim[stage], dim[stage] // head_dim, qkv_bias, dropout, attention_dropout)
            mlp = Mlp(dim[stage], hidden[stage], dropout)
            return GlobalBlock(dim[stage], attn, mlp, pos_kernel, norm_eps, next(rates), layer_scale)

        self.patch_embed1, self.patch_embed2 = embed(0), embed(1)
        self.patch_embed3, self.patch_embed4 = embed(2), embed(3)
        self.pos_drop = nn.Dropout(dropout)
        self.blocks1 = nn.ModuleList(local(0) for _ in range(depth[0]))
        self.blocks2 = nn.ModuleList(local(1) for _ in range(depth[1]))
        self.blocks3 = nn.ModuleList(everywhere(2) for _ in range(depth[2]))
        self.blocks4 = nn.ModuleList(everywhere(3) for _ in range(depth[3]))
        self.norm = nn.BatchNorm2d(dim[3])
        self.head_drop = nn.Dropout(head_dropout)
        self.head = nn.Linear(dim[3], num_classes)
        self.apply(partial(init_linear, std=init_std))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's map after the last norm, channels last: (B, H / 32, W / 32, C)."""
        self.check_input(x, self.smallest)
        x = self._blocks(self.pos_drop(self.patch_embed1(x)), self.blocks1)
        x = self._blocks(self.patch_embed2(x), self.blocks2)
        x = self._blocks(self.patch_embed3(x), self.blocks3)
        x = self._blocks(self.patch_embed4(x), self.blocks4)
        return self.norm(x).movedim(1, -1)

    def embed(self, x: Tensor) -> Tensor:
        """The mean over all positions (B, num_features)."""
        return self.forward_features(x).flatten(1, -2).mean(dim=1)

    def no_weight_decay(self) -> set[str]:
        return set()

    def stages(self) -> list[tuple[str, ...]]:
        groups: list[tuple[str, ...]] = []
        for stage, blocks in enumerate((self.blocks1, self.blocks2, self.blocks3, self.blocks4), 1):
            entrance = (f"patch_embed{stage}.",) if stage > 1 else ()
            groups += [(f"blocks{stage}.{i}.", *(entrance if i == 0 else ())) for i in range(len(blocks))]
        return [*groups, ("norm.", "head.")]

    def _blocks(self, x: Tensor, blocks: nn.ModuleList) -> Tensor:
        for block in blocks:
            x = self.run(block, x)
        return x


def _depthwise(dim: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)


def _check_sizes(
    dim: Sequence[int],
    depth: Sequence[int],
    patch: Sequence[int],
    head_dim: int,
    pos_kernel: int,
    local_kernel: int,
    conv_stem: bool,
) -> None:
    for name, sizes in (("dim", dim), ("depth", depth), ("patch", patch)):
        if len(sizes) != 4 or min(sizes) < 1:
            raise ValueError(f"{name} is four numbers of at least 1, one a stage, got {sizes}")
    for name, kernel in (("pos_kernel", pos_kernel), ("local_kernel", local_kernel)):
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"{name} must be odd, got {kernel}")
    if not 1 <= head_dim <= min(dim[2:]):
        raise ValueError(f"head_dim {head_dim} gives no head in stages of {dim[2]} and {dim[3]} channels")
    if conv_stem and tuple(patch) != (4, 2, 2, 2):
        raise ValueError(f"conv_stem shrinks by (4, 2, 2, 2), got patch {patch}")


_PAPER = "Li et al., UniFormer: Unifying Convolution and Self-attention for Visual Recognition, 2022 (arXiv:2201.09450)"


def _entry(name: str, summary: str, **defaults: object) -> Entry:
    return Entry(
        name, summary, _PAPER, image_clip(IMAGENET), ImageUniFormer, {"num_classes": 1000, **defaults}, kind="image"
    )


ENTRIES = (
    _entry("uniformer_2d_s", "UniFormer-S for images, 224 px", drop_path=0.1),
    _entry(
        "uniformer_2d_s_plus", "UniFormer-S+ for images: overlapping patches, heads of 32 channels, 224 px",
        depth=[3, 5, 9, 3], head_dim=32, conv_stem=True, drop_path=0.1,
    ),
    _entry("uniformer_2d_b", "UniFormer-B for images, 224 px", depth=[5, 8, 20, 7], drop_path=0.3),
    _entry(
        "uniformer_2d_b_ls", "UniFormer-B with LayerScale for images, 224 px",
        depth=[5, 8, 20, 7], layer_scale=1e-6, drop_path=0.3,
    ),
)  # fmt: skip
