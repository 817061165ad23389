"""R(2+1)D (Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018): a ResNet
whose k x k convolutions are factorised into one over each frame and one over time.

Shapes are those of VideoResNet (resnet3d.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

from torch import nn

from .image.resnet import BasicBlock, Bottleneck
from .lift.factorise import factorise_conv
from .lift.factorise import midplanes as most_midplanes
from .lift.inflate import TimeSpec
from .lift.walk import Rule
from .model import GREY, KINETICS, ClipSpec, Entry, tiny_clip
from .r2plus1d_weights import R2PLUS1D_WEIGHTS
from .resnet3d import VideoResNet, block_schedule

Midplanes = Literal["block", "conv", "same"]


class R2Plus1D(VideoResNet):
    """An image ResNet, factorised. Parameter names are its, with `space`, `mid_bn` and `time` inside a convolution.

    midplanes: how many channels lie between the two. "conv" computes them for each convolution (VMZ, MMAction2),
    "block" once for each block, from its input (torchvision), "same" are as many as the convolution gives
    (PyTorchVideo). stem_mid is a number, "conv" for the number that rule gives, or None for a stem that sees single
    frames. first: which of the two comes first. factorise_shortcut: the projections beside the blocks, too.
    spatial_strides and time_strides are those at the entrance of each stage. mid_norm_eps: of the norms between the
    two, where it is not that of the others. The other arguments are those of `ResNet`.
    """

    weight_rules = R2PLUS1D_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        block: Literal["basic", "bottleneck"] = "basic",
        layers: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        midplanes: Midplanes = "block",
        first: Literal["space", "time"] = "space",
        time_kernel: int = 3,
        spatial_strides: Sequence[int] = (1, 2, 2, 2),
        time_strides: Sequence[int] = (1, 2, 2, 2),
        factorise_shortcut: bool = False,
        stem_kernel: int = 7,
        stem_mid: int | Literal["conv"] | None = 45,
        stem_pool: bool = False,
        norm_eps: float = 1e-5,
        mid_norm_eps: float | None = None,
        head_dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init: bool = False,
    ) -> None:
        for name, value, known in (
            ("midplanes", midplanes, ("block", "conv", "same")),
            ("first", first, ("space", "time")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        if time_kernel < 1 or time_kernel % 2 == 0:
            raise ValueError(f"time_kernel must be odd, got {time_kernel}")
        if isinstance(stem_mid, str) and stem_mid != "conv":
            raise ValueError(f"stem_mid must be a number, 'conv' or None, got {stem_mid!r}")
        eps = norm_eps if mid_norm_eps is None else mid_norm_eps
        schedule = block_schedule(block, layers, (time_kernel,) * 4, time_strides)
        schedule["conv1"] = TimeSpec(1 if stem_mid is None else 3)
        super().__init__(
            factorisation(schedule, midplanes, first, factorise_shortcut, spatial_strides, stem_mid, eps), schedule,
            num_classes=num_classes, block=block, layers=layers, width=width, stem_kernel=stem_kernel,
            stem_pool=stem_pool, norm_eps=norm_eps, head_dropout=head_dropout, drop_path=drop_path, zero_init=zero_init,
        )  # fmt: skip


def factorisation(
    schedule: dict[str, TimeSpec],
    midplanes: Midplanes,
    first: Literal["space", "time"],
    shortcuts: bool,
    spatial_strides: Sequence[int],
    stem_mid: int | str | None,
    norm_eps: float,
) -> Rule:
    """The rule that factorises the stem and, in each block, the convolutions that have time in the schedule."""
    if len(spatial_strides) != 4:
        raise ValueError(f"spatial_strides are four, one a stage, got {tuple(spatial_strides)}")

    def split(conv: nn.Conv2d, spec: TimeSpec, mid: int) -> nn.Module:
        return factorise_conv(conv, mid, spec.kernel, spec.stride, first == "time", norm_eps)

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if name == "conv1" and isinstance(module, nn.Conv2d) and stem_mid is not None:
            mid = _of_conv(module) if isinstance(stem_mid, str) else stem_mid
            return factorise_conv(module, mid, schedule[name].kernel, norm_eps=norm_eps)
        if not isinstance(module, BasicBlock | Bottleneck):
            return None
        _set_stride(name, module, spatial_strides)
        inputs = module.conv1.in_channels
        for part in ("conv1", "conv2"):
            conv, spec = getattr(module, part), schedule[f"{name}.{part}"]
            if spec.kernel > 1:
                of_block = most_midplanes(inputs, conv.out_channels)
                mid = {"block": of_block, "conv": _of_conv(conv), "same": conv.out_channels}[midplanes]
                setattr(module, part, split(conv, spec, mid))
        if shortcuts and isinstance(module.downsample, nn.Sequential):
            conv, spec = cast(nn.Conv2d, module.downsample[0]), schedule[f"{name}.downsample.0"]
            module.downsample[0] = split(conv, spec, _of_conv(conv))
        return None

    return rule


def _of_conv(conv: nn.Conv2d) -> int:
    return most_midplanes(conv.in_channels, conv.out_channels, conv.kernel_size[0] * conv.kernel_size[1])


def _set_stride(name: str, block: BasicBlock | Bottleneck, strides: Sequence[int]) -> None:
    """The first block of a stage strides as `strides` say, where its image block does and in its shortcut."""
    stage, index = map(int, name.removeprefix("layer").split("."))
    stride = strides[stage - 1]
    conv = block.conv1 if isinstance(block, BasicBlock) else block.conv2
    if index or conv.stride == (stride, stride):
        return
    if not isinstance(block.downsample, nn.Sequential):
        raise ValueError(f"stage {stage} begins without a projection beside its block, so it cannot stride by {stride}")
    conv.stride = cast(nn.Conv2d, block.downsample[0]).stride = (stride, stride)


_PAPER = (
    "Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018 (arXiv:1711.11248)"
)
_CLIP = ClipSpec(16, 2, 112, views=(5, 1), sampling="dense", **KINETICS)


def _entry(name: str, summary: str, clip: ClipSpec, **defaults: object) -> Entry:
    return Entry(name, summary, _PAPER, clip, R2Plus1D, {"num_classes": 400, **defaults})


ENTRIES = (
    _entry("r2plus1d_18", "R(2+1)D-18, 16 frames of 112 px", _CLIP),
    _entry("r2plus1d_34", "R(2+1)D-34, 16 frames of 112 px", replace(_CLIP, views=(10, 1)), layers=(3, 4, 6, 3)),
    _entry("r2plus1d_50", "R(2+1)D-50 as PyTorchVideo has it, time first, 16 frames of 256 px",
           ClipSpec(16, 4, 256, views=(10, 3), sampling="dense", **GREY), block="bottleneck", layers=(3, 4, 6, 3),
           midplanes="same", first="time", spatial_strides=(2, 2, 2, 2), time_strides=(1, 1, 2, 2), stem_mid=None,
           head_dropout=0.5),
    _entry("r2plus1d_tiny", "R(2+1)D for a CPU: 8 frames of 48 px", tiny_clip(KINETICS),
           num_classes=10, layers=(1, 1, 1, 1), width=16, stem_mid=12, stem_kernel=5, stem_pool=True),
)  # fmt: skip
