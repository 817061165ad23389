"""Pseudo-3D blocks (Qiu et al. 2017): the k x k convolution S of a bottleneck, and one T over time beside or after it.

A puts T after S; B puts it beside S, on the same input; C after S, past which what S gave is added too. The released
graphs and the common port of them to PyTorch differ in where they put the ReLUs (r):
    released  A  r(T r(S x))    B  r(r(S x) + T x)     C  r(r(S x) + T r(S x))
    port      A  r(T r(S x))    B  r(S x) + r(T x)     C  r(S x) + r(T r(S x))
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from .conv import Conv3d, conv_norm
from .inflate import inflate_conv, inflate_norm


class Pseudo3d(nn.Module):
    """`space` (1, k, k) and `time` (t, 1, 1), each with a norm, put together as `kind` says.

    The last ReLU is left to the block that this stands in. relu_branches: the port's form. scale multiplies C's sum.
    """

    def __init__(
        self,
        space: Conv3d,
        space_bn: nn.BatchNorm3d,
        time: Conv3d,
        kind: Literal["A", "B", "C"],
        relu_branches: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if kind not in ("A", "B", "C"):
            raise ValueError(f"a pseudo-3D block is 'A', 'B' or 'C', got {kind!r}")
        self.kind, self.relu_branches, self.scale = kind, relu_branches, scale
        self.space, self.space_bn = space, space_bn
        self.time, self.time_bn = time, nn.BatchNorm3d(time.out_channels, eps=space_bn.eps)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        over_space = self.relu(conv_norm(self.space, self.space_bn, x))
        over_time = conv_norm(self.time, self.time_bn, x if self.kind == "B" else over_space)
        if self.kind == "A":
            return over_time
        y = over_space + (self.relu(over_time) if self.relu_branches else over_time)
        return y * self.scale if self.kind == "C" and self.scale != 1 else y

    def extra_repr(self) -> str:
        return self.kind


def pseudo3d_conv(
    conv: nn.Conv2d,
    norm: nn.BatchNorm2d,
    kind: Literal["A", "B", "C"],
    t: int = 3,
    relu_branches: bool = False,
    scale: float = 1.0,
) -> Pseudo3d:
    """What a convolution over images and its norm become. S keeps their weights, T is new."""
    if conv.stride not in (1, (1, 1)) or conv.in_channels != conv.out_channels:
        raise ValueError(f"{conv} changes the shape, which T beside it would not; its stride must lie elsewhere")
    channels = conv.out_channels
    time = Conv3d(
        channels, channels, (t, 1, 1), padding=(t // 2, 0, 0), bias=False, device=conv.weight.device,
        dtype=conv.weight.dtype,
    )  # fmt: skip
    return Pseudo3d(inflate_conv(conv, 1), inflate_norm(norm), time, kind, relu_branches, scale)
