"""Inflation (Carreira & Zisserman 2017): a k x k kernel of an image network becomes t x k x k, its weights included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .conv import Conv3d
from .walk import Rule

How = Literal["mean", "centre"]


class TimeSpec(NamedTuple):
    """What a layer does along time; padding None is kernel // 2, which keeps the number of frames at stride 1."""

    kernel: int = 1
    stride: int = 1
    padding: int | None = None

    @property
    def pad(self) -> int:
        return self.kernel // 2 if self.padding is None else self.padding


Schedule = Callable[[str, nn.Module], TimeSpec] | Mapping[str, TimeSpec | int]
"""Which layer gets how much time: a function of name and module, or shell patterns of names, of which the first that
fits decides, to a kernel or a TimeSpec. A layer that none fits sees one frame."""


def inflate_weight(weight: Tensor, t: int, how: How = "mean") -> Tensor:
    """(O, I, k, k) -> (O, I, t, k, k): an equal share to each frame, or all of it to frame t // 2."""
    if how == "mean":
        return (weight / t).unsqueeze(2).repeat(1, 1, t, 1, 1)
    if how != "centre":
        raise ValueError(f"inflation must be 'mean' or 'centre', got {how!r}")
    inflated = weight.new_zeros(*weight.shape[:2], t, *weight.shape[2:])
    inflated[:, :, t // 2] = weight
    return inflated


def inflate_conv(conv: nn.Conv2d, t: int, stride_t: int = 1, padding_t: int | None = None, how: How = "mean") -> Conv3d:
    """The Conv3d of a Conv2d with a kernel of `t` frames, same device, dtype and weights."""
    if padding_t is None:
        padding_t = t // 2
    padding: Any = conv.padding
    if isinstance(padding, str):  # "same" needs stride 1 in torch, and then is this much, or cannot be told
        if padding == "same" and any(d * (k - 1) % 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)):
            raise ValueError(f"padding 'same' of an even kernel {conv.kernel_size} cannot be inflated")
        sides = [d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        padding = tuple(sides) if padding == "same" else (0, 0)
    inflated = Conv3d(
        conv.in_channels, conv.out_channels, (t, *conv.kernel_size), (stride_t, *conv.stride), (padding_t, *padding),
        (1, *conv.dilation), conv.groups, conv.bias is not None, conv.padding_mode, conv.weight.device,
        conv.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        inflated.weight.copy_(inflate_weight(conv.weight, t, how))
        if inflated.bias is not None and conv.bias is not None:
            inflated.bias.copy_(conv.bias)
    for new, old in ((inflated.weight, conv.weight), (inflated.bias, conv.bias)):
        if new is not None and old is not None:
            new.requires_grad_(old.requires_grad)
    return inflated


class ActivatedNorm3d(nn.BatchNorm3d):
    """A norm with its dropout and activation inside, as some image networks have it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def inflate_norm(norm: nn.BatchNorm2d) -> nn.BatchNorm3d:
    """The BatchNorm3d with the same parameters and statistics."""
    inside = dict(norm.named_children())
    kind = ActivatedNorm3d if inside.keys() == {"drop", "act"} else nn.BatchNorm3d
    inflated = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for part, module in inside.items():
        inflated.add_module(part, module)
    inflated._parameters.update(norm._parameters)
    inflated._buffers.update(norm._buffers)
    return inflated


def inflation(schedule: Schedule, how: How = "mean") -> Rule:
    """The rule that turns a network of Conv2d, BatchNorm2d and 2-d pools into one of video.

    A pool has time as the schedule says; an adaptive one, which makes an input of any size fit what follows, leaves
    one frame. Layers with a forward of their own, which this cannot know, raise TypeError naming them: put a rule for
    them first (`first_of`), and for modules that count their axes from the front. A still clip shows whether a lift
    with "centre" is whole: it gives the logits of its image.
    """
    time = _lookup(schedule)

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, nn.Conv2d):
            _check_known(name, module, nn.Conv2d)
            kernel, stride, _ = spec = time(name, module)
            return inflate_conv(module, kernel, stride, spec.pad, how)
        if isinstance(module, nn.BatchNorm2d):
            if {"drop", "act"} != {part for part, _ in module.named_children()}:
                _check_known(name, module, nn.BatchNorm2d)
            return inflate_norm(module)
        if isinstance(module, nn.MaxPool2d):
            spec = time(name, module)
            sizes = (module.kernel_size, module.stride, module.padding, module.dilation)
            k, s, p, d = map(_pair, sizes)
            return nn.MaxPool3d(
                (spec.kernel, *k), (spec.stride, *s), (spec.pad, *p), (1, *d), ceil_mode=module.ceil_mode
            )
        if isinstance(module, nn.AvgPool2d):
            spec = time(name, module)
            k, s, p = map(_pair, (module.kernel_size, module.stride, module.padding))
            divisor = module.divisor_override and module.divisor_override * spec.kernel
            return nn.AvgPool3d(
                (spec.kernel, *k),
                (spec.stride, *s),
                (spec.pad, *p),
                module.ceil_mode,
                module.count_include_pad,
                divisor,
            )
        if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            pool = nn.AdaptiveAvgPool3d if isinstance(module, nn.AdaptiveAvgPool2d) else nn.AdaptiveMaxPool3d
            return pool((1, *_pair(module.output_size)))
        if isinstance(module, nn.Dropout2d):
            return nn.Dropout3d(module.p, module.inplace)
        return None

    return rule


def _lookup(schedule: Schedule) -> Callable[[str, nn.Module], TimeSpec]:
    if callable(schedule):
        return schedule
    patterns = {key: spec if isinstance(spec, TimeSpec) else TimeSpec(spec) for key, spec in schedule.items()}
    return lambda name, _: next((spec for key, spec in patterns.items() if fnmatchcase(name, key)), TimeSpec())


def _pair(size: Any) -> tuple[Any, Any]:
    return (size, size) if size is None or isinstance(size, int) else tuple(size)  # type: ignore[return-value]


def _check_known(name: str, module: nn.Module, known: type[nn.Module]) -> None:
    if type(module).forward is not known.forward:
        raise TypeError(f"{name} is a {type(module).__name__}, whose forward inflation does not know; give it a rule")
