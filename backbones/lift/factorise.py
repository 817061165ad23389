"""Factorisation (Tran et al. 2018): a convolution in space-time becomes one over each frame, then one over time.

Between the two are a norm, a ReLU, and so many channels (`midplanes`) that both together have about as many weights
as the one t x k x k convolution they stand for.
"""

from __future__ import annotations

from torch import Tensor, nn

from .conv import Conv3d, conv_norm


def midplanes(inputs: int, outputs: int, area: int = 9, t: int = 3) -> int:
    """The most channels between the two with which they have no more weights than one t x k x k; `area` is k * k."""
    return t * area * inputs * outputs // (area * inputs + t * outputs)


class Factorised(nn.Module):
    """`space` (1, k, k), `mid_bn`, ReLU and `time` (t, 1, 1); with `time_first` the other way round."""

    def __init__(self, space: Conv3d, mid_bn: nn.BatchNorm3d, time: Conv3d, time_first: bool = False) -> None:
        super().__init__()
        self.space, self.mid_bn, self.relu, self.time = space, mid_bn, nn.ReLU(inplace=True), time
        self.time_first = time_first

    def forward(self, x: Tensor) -> Tensor:
        return self._last(self._between(x))

    def then_norm(self, norm: nn.Module, x: Tensor) -> Tensor:
        return conv_norm(self._last, norm, self._between(x))

    @property
    def _last(self) -> Conv3d:
        return self.space if self.time_first else self.time

    def _between(self, x: Tensor) -> Tensor:
        return self.relu(conv_norm(self.time if self.time_first else self.space, self.mid_bn, x))

    def extra_repr(self) -> str:
        return "time first" if self.time_first else ""


def factorise_conv(
    conv: nn.Conv2d | nn.Conv3d,
    mid: int,
    t: int = 3,
    stride_t: int = 1,
    time_first: bool = False,
    norm_eps: float = 1e-5,
) -> Factorised:
    """What a convolution over images becomes, or one over video, whose own kernel and stride in time then count.

    The weights are new: with other channels between, and a ReLU there, none would compute what the old did.
    """
    if conv.groups != 1 or isinstance(conv.padding, str) or mid < 1:
        what = f"{conv.groups} groups, padding {conv.padding!r} and {mid} channels between"
        raise ValueError(f"only a dense convolution with its padding in numbers can be factorised, got {what}")
    pad_t = t // 2
    if isinstance(conv, nn.Conv3d):
        t, stride_t, pad_t = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    kernel, stride, padding = conv.kernel_size[-2:], conv.stride[-2:], conv.padding[-2:]
    ends = (conv.in_channels, mid, conv.out_channels)
    to_space, to_time = (ends[1:], ends[:2]) if time_first else (ends[:2], ends[1:])
    settings = {"bias": conv.bias is not None, "device": conv.weight.device, "dtype": conv.weight.dtype}
    space = Conv3d(*to_space, (1, *kernel), (1, *stride), (0, *padding), **settings)
    time = Conv3d(*to_time, (t, 1, 1), (stride_t, 1, 1), (pad_t, 0, 0), **settings)
    norm = nn.BatchNorm3d(mid, eps=norm_eps, device=conv.weight.device, dtype=conv.weight.dtype)
    return Factorised(space, norm, time, time_first)
