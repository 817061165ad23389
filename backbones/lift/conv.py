"""Convolution and pooling of video, each by the kernel that is fast for its shape; parameters are torch's own.

Shapes: x (B, C, T, H, W) in channels-last memory, that is (B, T, H, W, C). So frames fold into the batch, and H and W
into one axis, without a copy: a 1 x k x k kernel is a Conv2d over B*T frames, a t x 1 x 1 kernel a (t, 1) Conv2d over
(T, H*W).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depthwise import depthwise_conv3d


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W), a view where `x` is channels-last."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_frames(x: Tensor, batch: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H, W), a view where `x` is channels-last.

    Its strides are those of a new tensor even where T is 1, which has no bearing on a stride: BatchNorm's backward pass
    in torch 2.14 gives wrong gradients for any others.
    """
    return x.permute(0, 2, 3, 1).unflatten(0, (batch, -1)).permute(0, 4, 1, 2, 3)


class Conv3d(nn.Conv3d):
    """torch's Conv3d, computed over frames or over time alone where its kernel allows and that is faster.

    Weights are channels-last, as the clips are; kernels that get others rearrange them at each call.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight = nn.Parameter(self.weight.detach().to(memory_format=torch.channels_last_3d))

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super()._conv_forward(x, weight, bias)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        (t, kh, kw), (st, sh, sw) = self.kernel_size, self.stride
        (pt, ph, pw), (dt, dh, dw) = self.padding, self.dilation
        if t == 1 and pt == 0:
            frames = fold_frames(x[:, :, ::st] if st > 1 else x)
            y = F.conv2d(frames, weight.squeeze(2), bias, (sh, sw), (ph, pw), (dh, dw), self.groups)
            return unfold_frames(y, x.shape[0])
        if (kh, kw, sh, sw, ph, pw) == (1, 1, 1, 1, 0, 0) and _fold_time(x):
            y = F.conv2d(x.flatten(3), weight.flatten(3), bias, (st, 1), (pt, 0), (dt, 1), self.groups)
            return y.permute(0, 2, 3, 1).unflatten(2, x.shape[3:]).permute(0, 4, 1, 2, 3)
        depthwise = weight.shape[1] == 1 < self.groups == self.out_channels
        if depthwise and bias is None and (dt, dh, dw) == (1, 1, 1):
            return depthwise_conv3d(x, weight, self.stride, self.padding)  # type: ignore[arg-type]
        return super()._conv_forward(x, weight, bias)


def conv_norm(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(conv(x))`, on a CPU in evaluation without gradients as one convolution: the norm's scale and shift in its
    weight and bias. That spares a pass over memory, and is the same but for the rounding of the products.

    A module made of several convolutions takes the norm into its last by a method `then_norm(norm, x)`.
    """
    if hasattr(conv, "then_norm"):
        return conv.then_norm(norm, x)
    if type(norm) not in _NORMS or type(conv) not in _CONVS or not _may_fold(conv, norm, x):
        return norm(conv(x))
    dtype, wide = conv.weight.dtype, torch.promote_types(conv.weight.dtype, torch.float32)
    scale = norm.weight.to(wide) * (norm.running_var.to(wide) + norm.eps).rsqrt()
    shift = norm.bias.to(wide) - norm.running_mean.to(wide) * scale
    if conv.bias is not None:
        shift = shift + conv.bias.to(wide) * scale
    weight = conv.weight.to(wide) * scale.view(-1, *[1] * (conv.weight.ndim - 1))
    return conv._conv_forward(x, weight.to(dtype), shift.to(dtype))


def _may_fold(conv: nn.Module, norm: nn.Module, x: Tensor) -> bool:
    """Nothing will be differentiated, traced or looked at in between, and the norm's statistics are fixed."""
    if torch.is_grad_enabled() or norm.training or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    hooks = (conv._forward_hooks, conv._forward_pre_hooks, norm._forward_hooks, norm._forward_pre_hooks)
    return not any(hooks) and norm.affine and norm.track_running_stats  # type: ignore[return-value]


_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
_CONVS = (nn.Conv2d, nn.Conv3d, Conv3d)


class MaxPool3d(nn.MaxPool3d):
    """torch's MaxPool3d, computed over frames where it leaves time alone."""


def _fold_time(x: Tensor) -> bool:
    return x.dtype != torch.bfloat16
