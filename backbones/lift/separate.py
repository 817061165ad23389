"""Channel separation (Tran et al. 2019): the k x k convolution of a bottleneck becomes one over space-time for each
channel alone, with ("ip", interaction-preserved) or without ("ir", interaction-reduced) a product over channels before.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from .conv import Conv3d, conv_norm


class Separated(nn.Module):
    """`point` (1, 1, 1) over channels, `point_bn` without a ReLU, and `depth` (t, k, k) for each channel."""

    def __init__(self, point: Conv3d, point_bn: nn.BatchNorm3d, depth: Conv3d) -> None:
        super().__init__()
        self.point, self.point_bn, self.depth = point, point_bn, depth

    def forward(self, x: Tensor) -> Tensor:
        return self.depth(conv_norm(self.point, self.point_bn, x))

    def then_norm(self, norm: nn.Module, x: Tensor) -> Tensor:
        return conv_norm(self.depth, norm, conv_norm(self.point, self.point_bn, x))


def separate_conv(
    conv: nn.Conv2d, t: int = 3, stride_t: int = 1, mode: Literal["ip", "ir"] = "ip", norm_eps: float = 1e-5
) -> Separated | Conv3d:
    """What a convolution over images becomes. The weights are new: a dense kernel has no depthwise counterpart."""
    if mode not in ("ip", "ir"):
        raise ValueError(f"mode must be 'ip' or 'ir', got {mode!r}")
    inputs, channels = conv.in_channels, conv.out_channels
    if mode == "ir" and inputs != channels:
        raise ValueError(f"'ir' keeps each channel by itself, so it cannot make {channels} channels of {inputs}")
    if isinstance(conv.padding, str):
        raise ValueError(f"a convolution padded by {conv.padding!r} cannot be separated; give the padding in numbers")
    here: dict[str, Any] = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    depth = Conv3d(
        channels, channels, (t, *conv.kernel_size), (stride_t, *conv.stride), (t // 2, *conv.padding),
        groups=channels, bias=conv.bias is not None, **here,
    )  # fmt: skip
    if mode == "ir":
        return depth
    return Separated(Conv3d(inputs, channels, 1, bias=False, **here), nn.BatchNorm3d(channels, norm_eps, **here), depth)
