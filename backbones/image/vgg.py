"""VGG-11 with torchvision's names (Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015).

Shapes: B images (3, H, W), C = 512 channels at the end, K x K cells (7 x 7) that the fully connected
layers see.
    image (B, 3, H, W) -> five stages of 3x3 convolutions, each ending in a pool / 2 -> (B, C, H / 32, W / 32)
    -> average to (B, C, K, K) -> classifier: two layers of `hidden` with ReLU (B, hidden) -> head (B, num_classes)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..model import IMAGENET, Entry, Model, image_clip
from .vgg_weights import VGG_WEIGHTS

PLAN = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # channels of the convolutions of each stage


class VGG(Model):
    """VGG-11 as an image classifier: (B, 3, H, W) -> (B, num_classes).

    width: channels of the first convolution, the others in proportion; hidden: of the two fully connected layers. bn:
    a batch norm after each convolution. grid: rows and columns that the last map is averaged to.
    """

    axes: ClassVar[tuple[str, ...]] = ("B", "3", "H", "W")
    weight_rules = VGG_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        width: int = 64,
        hidden: int = 4096,
        bn: bool = False,
        norm_eps: float = 1e-5,
        head_dropout: float = 0.5,
        init_std: float = 0.01,
        grid: int | Sequence[int] = 7,
    ) -> None:
        super().__init__()
        if width < 1 or hidden < 1:
            raise ValueError(f"width and hidden must be at least 1, got {width!r} and {hidden!r}")
        layers: list[nn.Module] = []
        self.levels: list[tuple[int, int]] = []  # where in `features` each stage begins and ends
        channels = 3
        for plan in PLAN:
            start = len(layers)
            for out in (max(n * width // 64, 1) for n in plan):
                norm = [nn.BatchNorm2d(out, eps=norm_eps)] if bn else []
                layers += [nn.Conv2d(channels, out, 3, padding=1), *norm, nn.ReLU(inplace=True)]
                channels = out
            layers.append(nn.MaxPool2d(2, 2))
            self.levels.append((start, len(layers)))
        self.features = nn.Sequential(*layers)
        self.grid = (grid, grid) if isinstance(grid, int) else tuple(grid)
        self.num_features = hidden
        self.classifier = nn.Sequential(
            nn.Linear(channels * math.prod(self.grid), hidden), nn.ReLU(inplace=True), nn.Dropout(head_dropout),
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head_drop = nn.Dropout(head_dropout)
        self.head = nn.Linear(hidden, num_classes)
        self.apply(partial(init_vgg, std=init_std))

    def forward_features(self, image: Tensor) -> Tensor:
        """The last feature map: (B, C, H / 32, W / 32)."""
        self.check_input(image, smallest=32)
        return self.convolve(image)

    def embed(self, image: Tensor) -> Tensor:
        """What the last fully connected layer classifies, (B, num_features)."""
        x = F.adaptive_avg_pool2d(self.forward_features(image), (self.grid[0], self.grid[1]))
        return self.classifier(x.flatten(1))

    def convolve(self, x: Tensor) -> Tensor:
        """The five stages, of an image or, once they are lifted, of a clip."""
        for start, end in self.levels:
            x = self.run(self.features[start:end], x)
        return x

    def no_weight_decay(self) -> set[str]:
        return set()

    def stages(self) -> list[tuple[str, ...]]:
        levels = [tuple(f"features.{i}." for i in range(start, end)) for start, end in self.levels[1:]]
        return [*levels, ("classifier.0.",), ("classifier.3.",), ("head.",)]


def init_vgg(module: nn.Module, std: float) -> None:
    """Convolutions keep the variance of what follows a ReLU, the other weights are normal, biases zero."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


_PAPER = "Simonyan & Zisserman, Very Deep Convolutional Networks, ICLR 2015 (arXiv:1409.1556)"


def _entry(name: str, summary: str, **defaults: object) -> Entry:
    return Entry(name, summary, _PAPER, image_clip(IMAGENET), VGG, {"num_classes": 1000, **defaults}, kind="image")


ENTRIES = (
    _entry("vgg11", "VGG-11, 224 px"),
    _entry("vgg11_bn", "VGG-11 with batch norm, 224 px", bn=True),
)
