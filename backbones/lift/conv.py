"""Convolution of video, each by the kernel that is fast for its shape; parameters are torch's own.

Shapes: x (B, C, T, H, W) in channels-last memory, that is (B, T, H, W, C). So frames fold into the batch, and H and W
into one axis, without a copy: a 1 x k x k kernel is a Conv2d over B*T frames, a t x 1 x 1 kernel a (t, 1) Conv2d over
(T, H*W).

What is fast is measured by benchmarks/convolution.py. On a CPU it is oneDNN on channels-last tensors with a weight that
is channels-last too. Billions of multiply-accumulates a second of one thread, 8 frames of 56 px; in brackets torch's
Conv3d on contiguous and on channels-last tensors:

                             fp32 forward    both passes     bf16 forward    both passes
    1 x 3 x 3, 64            57 (33, 55)     52 (45, 51)     110 (82, 113)   103 (82, 102)
    1 x 1 x 1, 256 to 64     47 (15, 16)     44 (17, 13)     81 (19, 83)     79 (31, 82)
    3 x 1 x 1, 64            54 (21, 19)     44 (20, 18)     109 (52, 111)   96 (52, 97)
    3 x 3 x 3, 64            62 (55, 63)     58 (55, 58)     126 (112, 126)  119 (110, 119)
    3 x 3 x 3, 64 alone      30 (6, 20)      14 (2, 3)       44 (11, 44)     26 (1, 1)

Folding frames keeps small clips with oneDNN too. Folding H and W gains nothing (fp32 51 and 43), and is left to other
devices, where it is not measured. Max pools are torch's own, which nothing tried here beats.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depthwise import depthwise_conv3d


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W), a view where `x` is channels-last.

    Here and below axes move through (B, T, H, W, C), so that an axis of size 1, which has no bearing on where things
    lie, has the stride that it has in a new tensor: for any other, torch 2.14 computes wrong gradients in the backward
    passes of BatchNorm and of grouped convolution in float64.
    """
    return x.permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)


def unfold_frames(x: Tensor, batch: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H, W), a view where `x` is channels-last."""
    return x.permute(0, 2, 3, 1).unflatten(0, (batch, -1)).permute(0, 4, 1, 2, 3)


class Conv3d(nn.Conv3d):
    """torch's Conv3d, computed over frames, or over time alone, where its kernel allows and that is faster.

    Weights are channels-last, as the clips are; kernels that get others rearrange them at each call.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight = nn.Parameter(self.weight.detach().to(memory_format=torch.channels_last_3d))

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super()._conv_forward(x, weight, bias)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        stride, padding, groups = self.stride, self.padding, self.groups
        depthwise = weight.shape[1] == 1 < groups == self.out_channels
        if depthwise and self.dilation == (1, 1, 1) and self.kernel_size[0] > 1:
            return depthwise_conv3d(x, weight, stride, padding, bias)  # type: ignore[arg-type]
        dilation = _dilation(self, x)
        if self.kernel_size[0] == 1 and padding[0] == 0:
            frames = fold_frames(x[:, :, :: stride[0]] if stride[0] > 1 else x)
            y = F.conv2d(frames, weight.squeeze(2), bias, stride[1:], padding[1:], dilation[1:], groups)
            return unfold_frames(y, x.shape[0])
        over_time = (*self.kernel_size[1:], *stride[1:], *padding[1:]) == (1, 1, 1, 1, 0, 0)
        if over_time and x.device.type != "cpu":
            y = F.conv2d(_fold_space(x), weight.flatten(3), bias, (stride[0], 1), (padding[0], 0), dilation[:2], groups)
            return y.permute(0, 2, 3, 1).unflatten(2, x.shape[3:]).permute(0, 4, 1, 2, 3)
        if _small_alone(x, weight, groups):
            return torch.ops.aten.mkldnn_convolution(x, weight, bias, padding, stride, dilation, groups)
        return F.conv3d(x, weight, bias, stride, padding, dilation, groups)


def _fold_space(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, C, T, H*W), a view where `x` is channels-last."""
    return x.permute(0, 2, 3, 4, 1).flatten(2, 3).permute(0, 3, 1, 2)


def _dilation(conv: nn.Conv3d, x: Tensor) -> tuple[int, ...]:
    """The dilation, on a CPU 2 along axes where the kernel is 1 and it has no effect.

    For a kernel of 1 x 1 in its last axes torch leaves oneDNN for a kernel of its own, 2 to 4 times slower on
    channels-last tensors, if it has one thread and less than 16 images, and nothing is strided or dilated.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or conv.kernel_size[1:] != (1, 1):
        return conv.dilation
    return tuple(d if k > 1 else 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True))


def _small_alone(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether torch would leave oneDNN for a kernel of its own that is 2 to 17 times slower and not channels-last: it
    does for one clip of at most 20480 channels times frames times rows, unless the kernel is larger than 3."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32 or groups > 1:
        return False
    small = x.shape[0] == 1 and x.shape[1] * x.shape[2] * x.shape[3] <= 20480 and min(weight.shape[3:]) <= 3
    return small and torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu")


def conv_norm(conv: Any, norm: Any, x: Tensor) -> Tensor:
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


def _may_fold(conv: Any, norm: Any, x: Tensor) -> bool:
    """Nothing will be differentiated, traced or looked at in between, the norm's statistics are fixed, and the weight
    is smaller than what the norm would pass over."""
    if torch.is_grad_enabled() or norm.training or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    hooks = (conv._forward_hooks, conv._forward_pre_hooks, norm._forward_hooks, norm._forward_pre_hooks)
    return not any(hooks) and norm.affine and norm.track_running_stats and conv.weight.numel() < x.numel()


_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
_CONVS = (nn.Conv2d, nn.Conv3d, Conv3d)
