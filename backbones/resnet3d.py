"""Residual networks of video: an image ResNet and the rule that gives it time.

Shapes: B clips, T frames, w = width, e = 1 for the basic block and 4 for the bottleneck.
    clip (B, 3, T, H, W) -> conv1, maxpool (B, w, T', H', W') -> layer1 .. layer4 (B, 8*e*w, T'', H'/8, W'/8)
    -> mean over time and space (B, 8*e*w) -> head (B, num_classes)
Memory is channels-last throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import nn

from .image.resnet import Attention, ResNet, ZeroShortcut
from .lift.inflate import TimeSpec, inflation
from .lift.walk import Rule, first_of, lift
from .resnet3d_weights import RESNET3D_WEIGHTS

PerStage = Sequence[int | Sequence[int]]


class VideoResNet(ResNet):
    """Base of the video ResNets: builds the image ResNet of the arguments `image`, and lifts it in place by `rule`.

    A family is a subclass with explicit arguments that makes its rule and hands it on:

        class R2Plus1D(VideoResNet):
            weight_rules = R2PLUS1D_WEIGHTS
            def __init__(self, num_classes, layers=(3, 4, 6, 3), ...):
                super().__init__(factorisation(...), num_classes=num_classes, block="basic", layers=layers, ...)

    `rule` is asked about every module of the `ResNet` by its name (conv1, bn1, maxpool, layer1.0.conv1,
    layer2.0.downsample.0, ...). What it has no replacement for is inflated by `schedule`, data that says how much time
    a layer sees: without an entry one frame, at stride 1. So a rule that replaces some convolutions is enough, with the
    schedule for the strides in time of the rest. After the lift all convolutions are initialised anew
    (`init_weights`), for an inflated random kernel would see no motion.

    stage_pool: layer1 ends in a max pool over this many frames (1 for none). inflation: how image weights are given
    time by `load_weights`, "mean" over the frames of a kernel or at its "centre".
    """

    axes: ClassVar[tuple[str, ...]] = ("B", "3", "T", "H", "W")
    weight_rules = RESNET3D_WEIGHTS

    def __init__(
        self,
        rule: Rule | None = None,
        schedule: dict[str, TimeSpec] | None = None,
        stage_pool: int = 1,
        inflation_how: Literal["mean", "centre"] = "mean",
        **image: Any,
    ) -> None:
        super().__init__(**image)
        self.inflation = inflation_how
        schedule = schedule or {}
        inflate = first_of(shortcuts_in_time(schedule), inflation(schedule, inflation_how))
        lift(self, inflate if rule is None else first_of(rule, inflate))
        stem, pool = schedule.get("conv1", TimeSpec()), schedule.get("maxpool", TimeSpec())
        if stage_pool < 1:
            raise ValueError(f"stage_pool must be at least 1, got {stage_pool}")
        if stage_pool > 1:
            self.get_submodule("layer1").append(nn.MaxPool3d((stage_pool, 1, 1)))  # type: ignore[operator]
        self._shortest = (stage_pool - 1) * stem.stride * pool.stride + 1
        self.init_weights()
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def shortest(self) -> int:
        return self._shortest


class InflatedResNet(VideoResNet):
    """The video ResNets by inflation: 3D ResNet, mixed convolutions, I3D-ResNet, Slow, C2D.

    time_kernels: of each stage the temporal kernel of its blocks, one number or a list that the blocks repeat.
    time_in: which convolutions of a block have it: all "spatial" (k x k) ones, or its "first". time_strides: of each
    stage, at its entrance. stem_kernel_t and stem_stride_t belong to the first convolution, pool_kernel_t and
    pool_stride_t to the max pool after it; stage_pool is a max pool over time after layer1. The other arguments are
    those of `ResNet`, and `inflation` says how `load_weights` gives time to image weights.
    """

    def __init__(
        self,
        num_classes: int,
        block: Literal["basic", "bottleneck"] = "bottleneck",
        layers: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        groups: int = 1,
        width_per_group: int = 64,
        shortcut: Literal["conv", "zero"] = "conv",
        time_kernels: PerStage = (3, 3, 3, 3),
        time_strides: Sequence[int] = (1, 2, 2, 2),
        time_in: Literal["spatial", "first"] = "spatial",
        stem_kernel: int = 7,
        stem_kernel_t: int = 3,
        stem_stride: int = 2,
        stem_stride_t: int = 1,
        stem_pool: bool = True,
        pool_kernel_t: int = 1,
        pool_stride_t: int = 1,
        stage_pool: int = 1,
        attention: Attention = None,
        norm_eps: float = 1e-5,
        head_dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init: bool = False,
        inflation: Literal["mean", "centre"] = "mean",
    ) -> None:
        schedule = {
            "conv1": TimeSpec(stem_kernel_t, stem_stride_t),
            "maxpool": TimeSpec(pool_kernel_t, pool_stride_t),
            **block_schedule(block, layers, time_kernels, time_strides, time_in),
        }
        _check(schedule)
        super().__init__(
            None, schedule, stage_pool, inflation, num_classes=num_classes, block=block, layers=layers, width=width,
            groups=groups, width_per_group=width_per_group, shortcut=shortcut, stem_kernel=stem_kernel,
            stem_stride=stem_stride, stem_pool=stem_pool, attention=attention, norm_eps=norm_eps,
            head_dropout=head_dropout, drop_path=drop_path, zero_init=zero_init,
        )  # fmt: skip


def block_schedule(
    block: str,
    layers: Sequence[int],
    kernels: PerStage,
    strides: Sequence[int],
    time_in: Literal["spatial", "first"] = "spatial",
) -> dict[str, TimeSpec]:
    """What each convolution of the four stages does along time: {"layer1.0.conv1": TimeSpec(kernel, stride), ...}.

    The stride of a stage falls on the convolution that has the stride in space, and on the shortcut beside it.
    """
    if len(kernels) != 4 or len(strides) != 4:
        raise ValueError(f"time kernels and strides are four, one a stage, got {kernels} and {strides}")
    if time_in not in ("spatial", "first"):
        raise ValueError(f"time_in must be 'spatial' or 'first', got {time_in!r}")
    spatial = ("conv1", "conv2") if block == "basic" else ("conv2",)
    schedule = {}
    for stage, (depth, kernel, stride) in enumerate(zip(layers, kernels, strides, strict=False), 1):
        cycle = [kernel] if isinstance(kernel, int) else list(kernel)
        for i in range(depth):
            name, stride_t = f"layer{stage}.{i}", stride if i == 0 else 1
            for conv in ("conv1", "conv2"):
                timed = conv == "conv1" if time_in == "first" else conv in spatial
                schedule[f"{name}.{conv}"] = TimeSpec(
                    cycle[i % len(cycle)] if timed else 1, stride_t if conv == spatial[0] else 1
                )
            schedule[f"{name}.downsample"] = schedule[f"{name}.downsample.0"] = TimeSpec(1, stride_t)
    return schedule


def shortcuts_in_time(schedule: dict[str, TimeSpec]) -> Rule:
    """The rule that gives the parameterless shortcut its stride in time."""

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, ZeroShortcut) and len(module.stride) == 2:
            return ZeroShortcut(module.channels, (schedule.get(name, TimeSpec()).stride, *module.stride))
        return None

    return rule


def _check(schedule: dict[str, TimeSpec]) -> None:
    for name, spec in schedule.items():
        if spec.kernel < 1 or spec.kernel % 2 == 0 or spec.stride < 1:
            raise ValueError(f"kernels in time must be odd and strides at least 1, got {spec[:2]} for {name}")
