"""CSN (Tran et al., "Video Classification with Channel-Separated Convolutional Networks", ICCV 2019): a ResNet whose
3 x 3 convolutions each see one channel alone, in space and time.

Shapes are those of VideoResNet (resnet3d.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from .csn_weights import CSN_WEIGHTS
from .lift.inflate import TimeSpec
from .lift.separate import separate_conv
from .lift.walk import Rule
from .model import KINETICS, ClipSpec, Entry, tiny_clip
from .resnet3d import VideoResNet, block_schedule


class CSN(VideoResNet):
    """An image ResNet of bottlenecks, its channels separated. Parameter names are the ResNet's.

    mode: "ip" puts a product over channels before each depthwise convolution (`conv2.{point, point_bn, depth}`), "ir"
    does not (`conv2`). time_kernel is the depthwise convolutions', time_strides those at the entrance of each stage.
    The other arguments are those of `ResNet`.
    """

    weight_rules = CSN_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        mode: Literal["ip", "ir"] = "ip",
        layers: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        time_kernel: int = 3,
        time_strides: Sequence[int] = (1, 2, 2, 2),
        stem_kernel: int = 7,
        stem_kernel_t: int = 3,
        stem_pool: bool = True,
        norm_eps: float = 1e-3,
        head_dropout: float = 0.5,
        drop_path: float = 0.0,
        zero_init: bool = False,
    ) -> None:
        if mode not in ("ip", "ir"):
            raise ValueError(f"mode must be 'ip' or 'ir', got {mode!r}")
        for name, value in (("time_kernel", time_kernel), ("stem_kernel_t", stem_kernel_t)):
            if value < 1 or value % 2 == 0:
                raise ValueError(f"{name} must be odd, got {value}")
        schedule = block_schedule("bottleneck", layers, (time_kernel,) * 4, time_strides)
        schedule["conv1"] = TimeSpec(stem_kernel_t)
        super().__init__(
            separation(schedule, mode, norm_eps), schedule, num_classes=num_classes, block="bottleneck", layers=layers,
            width=width, stem_kernel=stem_kernel, stem_pool=stem_pool, norm_eps=norm_eps, head_dropout=head_dropout,
            drop_path=drop_path, zero_init=zero_init,
        )  # fmt: skip


def separation(schedule: dict[str, TimeSpec], mode: Literal["ip", "ir"], norm_eps: float) -> Rule:
    """The rule that separates the channels of every bottleneck's 3 x 3 convolution."""

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, nn.Conv2d) and name.endswith(".conv2"):
            return separate_conv(module, schedule[name].kernel, schedule[name].stride, mode, norm_eps)
        return None

    return rule


_PAPER = "Tran et al., Video Classification with Channel-Separated Convolutional Networks, ICCV 2019 (arXiv:1904.02811)"
_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _entry(mode: str, depth: int) -> Entry:
    clip = ClipSpec(32, 2, 256, views=(10, 3), sampling="dense", **KINETICS)
    defaults = {"num_classes": 400, "mode": mode, "layers": _DEPTHS[depth]}
    return Entry(f"{mode}_csn_{depth}", f"{mode}-CSN-{depth}, 32 frames of 256 px", _PAPER, clip, CSN, defaults)


_TINY = {"num_classes": 10, "layers": (1, 1, 1, 1), "width": 24, "stem_kernel": 5, "head_dropout": 0.0}

ENTRIES = (
    *(_entry(mode, depth) for mode in ("ip", "ir") for depth in _DEPTHS),
    Entry(
        "csn_tiny", "CSN for a CPU: 8 frames of 48 px; mode 'ip' or 'ir'", _PAPER,
        tiny_clip(KINETICS), CSN, _TINY,
    ),
)  # fmt: skip
