"""The residual network (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016), torchvision's names.

Shapes: B images, (3, H, W) pixels, w = width, e = 1 for the basic block and 4 for the bottleneck.
    image (B, 3, H, W) -> conv1, maxpool (B, w, H/4, W/4) -> layer1 (B, e*w, H/4, W/4)
    -> layer2 (B, 2*e*w, H/8, W/8) -> layer3 (/16) -> layer4 (B, 8*e*w, H/32, W/32) -> mean (B, 8*e*w) -> head
Every module acts on whatever axes follow (B, C), so that a lift to video has only convolutions, norms and pools to
change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..lift.conv import conv_norm
from ..model import IMAGENET, Entry, Model, image_clip
from .resnet_weights import RESNET_WEIGHTS
from .vit import DropPath, drop_path_rates

Attention = Literal["se", "cbam"] | None


class SqueezeExcite(nn.Module):
    """A factor for each channel out of the mean over all positions (Hu et al. 2018), with timm's names and rounding."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(8, (channels // reduction + 4) // 8 * 8)
        self.fc1, self.relu, self.fc2 = (
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.relu(self.fc1(_mean(x, keepdim=True)))).sigmoid()


class ChannelGate(nn.Module):
    """CBAM's factor for each channel, out of its mean and its maximum over all positions."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.mlp(_mean(x)) + self.mlp(x.amax(dim=tuple(range(2, x.ndim))))
        return x * scale.sigmoid().view(*scale.shape, *[1] * (x.ndim - 2))


class SpatialGate(nn.Module):
    """CBAM's factor for each position, out of the maximum and the mean over its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return x * self.bn(self.conv(pooled)).sigmoid()


class CBAM(nn.Module):
    """Convolutional block attention (Woo et al. 2018): first which channels, then where."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel, self.spatial = ChannelGate(channels), SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial(self.channel(x))


class ZeroShortcut(nn.Module):
    """A shortcut without parameters (He et al., option A): every stride-th position, new channels zero."""

    def __init__(self, channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.stride = channels, tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        kept: tuple[Any, ...] = (..., *(slice(None, None, s) for s in self.stride))
        x = x[kept]
        return F.pad(x, (0, 0) * len(self.stride) + (0, self.channels - x.shape[1]))


class Projection(nn.Sequential):
    """A shortcut by a convolution and its norm (option B)."""

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(self[0], self[1], x)


class Block(nn.Module, ABC):
    """What both blocks share: relu(residual + shortcut), the residual weighed by the attention, if any."""

    expansion: int
    last_norm: str

    def __init__(self, channels: int, attention: Attention, drop_path: float) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcite(channels) if attention == "se" else None
        self.cbam = CBAM(channels) if attention == "cbam" else None
        self.drop_path = DropPath(drop_path)
        self.downsample: nn.Module | None = None

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """What the block adds to its shortcut, before attention."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.residual(x)
        if self.se is not None:
            y = self.se(y)
        if self.cbam is not None:
            y = self.cbam(y)
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.drop_path(y)
        return self.relu(y.add_(shortcut) if y.dtype == shortcut.dtype else y + shortcut)


class BasicBlock(Block):
    """Two 3 x 3 convolutions, the stride in the first."""

    expansion, last_norm = 1, "bn2"

    def __init__(self, inputs: int, planes: int, inner: int, stride: int, groups: int, eps: float, attention: Attention,
                 drop_path: float) -> None:  # fmt: skip
        super().__init__(planes, attention, drop_path)
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes, eps=eps)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes, eps=eps)

    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(conv_norm(self.conv1, self.bn1, x))
        return conv_norm(self.conv2, self.bn2, x)


class Bottleneck(Block):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, the stride in the second (the form called v1.5)."""

    expansion, last_norm = 4, "bn3"

    def __init__(self, inputs: int, planes: int, inner: int, stride: int, groups: int, eps: float, attention: Attention,
                 drop_path: float) -> None:  # fmt: skip
        super().__init__(4 * planes, attention, drop_path)
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, eps=eps)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner, eps=eps)
        self.conv3 = nn.Conv2d(inner, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes, eps=eps)

    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(conv_norm(self.conv1, self.bn1, x))
        x = self.relu(conv_norm(self.conv2, self.bn2, x))
        return conv_norm(self.conv3, self.bn3, x)


class ResNet(Model):
    """ResNet, ResNeXt (`groups`, `width_per_group`), Wide ResNet (`width_per_group`), SE-, CBAM-ResNet (`attention`).

    layers: blocks of each of the four stages. width: channels of the stem and, before expansion, of layer1.
    shortcut: where a block changes shape, "conv" projects (option B), "zero" subsamples and adds zero channels (A).
    zero_init: the last norm of each block starts at zero, so that a fresh block is the identity.
    """

    axes: ClassVar[tuple[str, ...]] = ("B", "3", "H", "W")
    weight_rules = RESNET_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        block: Literal["basic", "bottleneck"] = "bottleneck",
        layers: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        groups: int = 1,
        width_per_group: int = 64,
        shortcut: Literal["conv", "zero"] = "conv",
        stem_kernel: int = 7,
        stem_stride: int = 2,
        stem_pool: bool = True,
        attention: Attention = None,
        norm_eps: float = 1e-5,
        head_dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("groups", groups), ("stem_stride", stem_stride)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if int(width * width_per_group / 64) < 1:
            raise ValueError(f"width_per_group {width_per_group} leaves no channel of {width} in a group")
        _check(block, layers, groups, width_per_group, shortcut, stem_kernel, attention)
        kind = BasicBlock if block == "basic" else Bottleneck
        self.conv1 = nn.Conv2d(3, width, stem_kernel, stem_stride, padding=stem_kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps=norm_eps)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, padding=1) if stem_pool else nn.Identity()
        rates, inputs = iter(drop_path_rates(drop_path, sum(layers))), width
        for stage, depth in enumerate(layers):
            planes = width * 2**stage
            inner, outputs = int(planes * width_per_group / 64) * groups, planes * kind.expansion
            blocks: list[nn.Module] = []
            for i in range(depth):
                stride = 2 if stage and i == 0 else 1
                one = kind(inputs, planes, inner, stride, groups, norm_eps, attention, next(rates))
                if stride != 1 or inputs != outputs:
                    one.downsample = _downsample(shortcut, inputs, outputs, stride, norm_eps)
                blocks.append(one)
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_features = inputs
        self.head_drop = nn.Dropout(head_dropout)
        self.head = nn.Linear(inputs, num_classes)
        self.zero_init = zero_init
        self.init_weights()

    def init_weights(self) -> None:
        """He initialisation of convolutions by their outputs, as published; norms pass on what they get."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.zero_init:
            for block in self.blocks():
                if isinstance(block, Block):
                    nn.init.zeros_(block.get_parameter(f"{block.last_norm}.weight"))

    def blocks(self) -> list[nn.Module]:
        """The blocks of all stages in order."""
        return [block for i in range(1, 5) for block in getattr(self, f"layer{i}")]

    def forward_features(self, image: Tensor) -> Tensor:
        """The feature map of the last stage, (B, num_features, H/32, W/32), of a clip with an axis T before H."""
        self.check_input(image, smallest=1, shortest=self.shortest())
        layout = torch.channels_last if image.ndim == 4 else torch.channels_last_3d
        x = image.contiguous(memory_format=layout)
        x = self.maxpool(self.relu(conv_norm(self.conv1, self.bn1, x)))
        for block in self.blocks():
            x = self.run(block, x)
        return x

    def embed(self, image: Tensor) -> Tensor:
        """The mean of the feature map (B, num_features)."""
        return _mean(self.forward_features(image))

    def shortest(self) -> int:
        """The fewest frames that a lifted network takes."""
        return 1

    def no_weight_decay(self) -> set[str]:
        return set()

    def stages(self) -> list[tuple[str, ...]]:
        names = [f"layer{i}.{j}." for i in range(1, 5) for j, block in enumerate(getattr(self, f"layer{i}"))
                 if next(block.parameters(), None) is not None]  # fmt: skip
        return [*((name,) for name in names), ("head.",)]


def _mean(x: Tensor, keepdim: bool = False) -> Tensor:
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=keepdim)


def _downsample(shortcut: str, inputs: int, outputs: int, stride: int, eps: float) -> nn.Module:
    if shortcut == "zero":
        return ZeroShortcut(outputs, (stride, stride))
    return Projection(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs, eps=eps))


def _check(
    block: str,
    layers: Sequence[int],
    groups: int,
    width_per_group: int,
    shortcut: str,
    stem: int,
    attention: str | None,
) -> None:
    for name, value, known in (
        ("block", block, ("basic", "bottleneck")),
        ("shortcut", shortcut, ("conv", "zero")),
        ("attention", attention, (None, "se", "cbam")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    if len(layers) != 4 or min(layers) < 1:
        raise ValueError(f"layers must be four numbers of blocks, each at least 1, got {tuple(layers)}")
    if stem < 1 or stem % 2 == 0:
        raise ValueError(f"stem_kernel must be odd, got {stem}")
    if block == "basic" and (groups, width_per_group) != (1, 64):
        raise ValueError(f"the basic block has neither groups nor a width a group, got {groups} and {width_per_group}")


_RESNET = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv:1512.03385)"
_RESNEXT = "Xie et al., Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017 (arXiv:1611.05431)"
_WIDE = "Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016 (arXiv:1605.07146)"
_SE = "Hu et al., Squeeze-and-Excitation Networks, CVPR 2018 (arXiv:1709.01507)"
_CBAM = "Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018 (arXiv:1807.06521)"


def _entry(name: str, summary: str, source: str = _RESNET, **defaults: object) -> Entry:
    return Entry(name, summary, source, image_clip(IMAGENET), ResNet, {"num_classes": 1000, **defaults}, kind="image")


ENTRIES = (
    _entry("resnet_18", "ResNet-18, 224 px", block="basic", layers=(2, 2, 2, 2)),
    _entry("resnet_34", "ResNet-34, 224 px", block="basic"),
    _entry("resnet_50", "ResNet-50, 224 px"),
    _entry("resnet_101", "ResNet-101, 224 px", layers=(3, 4, 23, 3)),
    _entry("resnet_152", "ResNet-152, 224 px", layers=(3, 8, 36, 3)),
    _entry("resnext_50_32x4d", "ResNeXt-50, 32 groups of 4, 224 px", _RESNEXT, groups=32, width_per_group=4),
    _entry("resnext_101_32x8d", "ResNeXt-101, 32 groups of 8, 224 px", _RESNEXT, layers=(3, 4, 23, 3), groups=32,
           width_per_group=8),
    _entry("wide_resnet_50", "Wide ResNet-50-2, 224 px", _WIDE, width_per_group=128),
    _entry("wide_resnet_101", "Wide ResNet-101-2, 224 px", _WIDE, layers=(3, 4, 23, 3), width_per_group=128),
    _entry("se_resnet_50", "SE-ResNet-50, 224 px", _SE, attention="se"),
    _entry("cbam_resnet_50", "ResNet-50 with CBAM, 224 px", _CBAM, attention="cbam"),
)  # fmt: skip
