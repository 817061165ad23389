"""C3D: VGG-11 inflated (Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015).

Shapes: B clips (3, T, H, W) of the size the network was built for.
    clip (B, 3, 16, 112, 112) -> pool (64, 16, 56, 56) -> pool (128, 8, 28, 28) -> pool (256, 4, 14, 14) -> pool
    (512, 2, 7, 7) -> pool (512, 1, 4, 4) -> fc6, fc7 of the classifier (B, 4096) -> head (B, num_classes)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .c3d_weights import C3D_WEIGHTS
from .image.vgg import PLAN, VGG, init_vgg
from .lift.inflate import How, TimeSpec, inflation
from .lift.walk import Rule, first_of, lift
from .model import GREY, ClipSpec, Entry, tiny_clip


class C3D(VGG):
    """VGG-11 over a clip, every 3 x 3 kernel grown to 3 x 3 x 3: (B, 3, T, H, W) -> (B, num_classes).

    Parameter names are those of the image network; its classifier, the layers fc6 and fc7, sees every position of the
    last map, so a clip must have the `frames` and `size` built for. pool_times are kernel and stride along time of the
    five pools, last_padding the rows and columns that the last of them adds. inflation: how image weights are given
    time by `load_weights`.
    """

    axes: ClassVar[tuple[str, ...]] = ("B", "3", "T", "H", "W")
    weight_rules = C3D_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        frames: int,
        size: int,
        width: int = 64,
        hidden: int = 4096,
        bn: bool = False,
        norm_eps: float = 1e-5,
        pool_times: Sequence[int] = (1, 2, 2, 2, 2),
        last_padding: int = 1,
        head_dropout: float = 0.5,
        init_std: float = 0.005,
        inflation: How = "mean",
    ) -> None:
        if len(pool_times) != len(PLAN) or min(pool_times) < 1:
            raise ValueError(f"pool_times must be five numbers of frames, got {pool_times!r}")
        if last_padding not in (0, 1):
            raise ValueError(f"last_padding must be 0 or 1, got {last_padding!r}")
        length, side = frames, size
        for times in pool_times:
            length //= times
        side = (side // 2 ** (len(PLAN) - 1) + 2 * last_padding) // 2
        if min(length, side) < 1:
            raise ValueError(
                f"nothing is left of {frames} frames of {size} pixels after the pools, {pool_times} in time"
            )
        super().__init__(num_classes, width, hidden, bn, norm_eps, head_dropout, init_std, grid=(length, side, side))
        self.inflation, self.frames, self.size = inflation, frames, size
        lift(self, _rule([end - 1 for _, end in self.levels], pool_times, last_padding, inflation))
        for module in self.features:  # an own random start for each moment, where the lift copied the image's
            init_vgg(module, init_std)

    def forward_features(self, clip: Tensor) -> Tensor:
        """The last feature map: (B, C, *grid)."""
        self.check_input(clip, smallest=1)
        if tuple(clip.shape[2:]) != (self.frames, self.size, self.size):
            raise ValueError(
                f"this C3D was built for clips of {self.frames} frames of {self.size} x {self.size} pixels, "
                f"got {tuple(clip.shape)}: its fully connected layers need them; build it with other frames and size"
            )
        return self.convolve(clip)

    def embed(self, clip: Tensor) -> Tensor:
        """What fc7 makes of the last feature map: (B, num_features)."""
        # The copy that flattening takes anyway, made plain: a tracer may take it for a view, as it is not everywhere.
        features = self.forward_features(clip).clone(memory_format=torch.contiguous_format)
        return self.classifier(features.flatten(1))


def _rule(pools: Sequence[int], pool_times: Sequence[int], last_padding: int, how: How) -> Rule:
    times = {f"features.{i}": times for i, times in zip(pools, pool_times, strict=True)}

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if name not in times:
            return None
        edge = last_padding if name == f"features.{pools[-1]}" else 0
        return nn.MaxPool3d((times[name], 2, 2), padding=(0, edge, edge))

    return first_of(rule, inflation({"features.*": TimeSpec(3)}, how))


_PAPER = "Tran et al., Learning Spatiotemporal Features with 3D Convolutional Networks, ICCV 2015 (arXiv:1412.0767)"
# MMAction2 takes these from pixels of 0 to 255 in the order R, G, B, and divides by nothing: they are means of the
# channels in Caffe's order B, G, R, but it is how its weights were trained.
_MEAN, _STD = (104 / 255, 117 / 255, 128 / 255), (1 / 255, 1 / 255, 1 / 255)


def _entry(name: str, summary: str, clip: ClipSpec, **defaults: object) -> Entry:
    return Entry(name, summary, _PAPER, clip, C3D, {"num_classes": 101, **defaults})


ENTRIES = (
    _entry("c3d", "C3D: VGG-11 inflated, 16 frames of 112 px", ClipSpec(16, 1, 112, _MEAN, _STD, (10, 1), "dense")),
    _entry(
        "c3d_tiny", "C3D for a CPU: 8 frames of 48 px, learns motion in a few hundred steps",
        tiny_clip(GREY),
        num_classes=10, width=6, hidden=64, pool_times=(1, 2, 2, 2, 1), head_dropout=0.0, init_std=0.1,
    ),
)  # fmt: skip
