"""Convolution and pooling of video, each by the kernel that is fast for its shape; parameters are torch's own.

Shapes: x (B, C, T, H, W) in channels-last memory, that is (B, T, H, W, C). So frames fold into the batch, and H and W
into one axis, without a copy: a 1 x k x k kernel is a Conv2d over B*T frames, a t x 1 x 1 kernel a (t, 1) Conv2d over
(T, H*W).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depthwise import depthwise_conv3d


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W), a view where `x` is channels-last."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_frames(x: Tensor, batch: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H, W), a view."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


class Conv3d(nn.Conv3d):
    """torch's Conv3d, computed over frames or over time alone where its kernel allows and that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        (t, kh, kw), (st, sh, sw) = self.kernel_size, self.stride
        (pt, ph, pw), (dt, dh, dw) = self.padding, self.dilation
        if t == 1 and pt == 0:
            frames = fold_frames(x[:, :, ::st] if st > 1 else x)
            y = F.conv2d(frames, self.weight.squeeze(2), self.bias, (sh, sw), (ph, pw), (dh, dw), self.groups)
            return unfold_frames(y, x.shape[0])
        if (kh, kw, sh, sw, ph, pw) == (1, 1, 1, 1, 0, 0) and _fold_time(x):
            weight = self.weight.flatten(3)
            y = F.conv2d(x.flatten(3), weight, self.bias, (st, 1), (pt, 0), (dt, 1), self.groups)
            return y.unflatten(3, x.shape[3:])
        if self.weight.shape[1] == 1 < self.groups == self.out_channels and self.bias is None and (dt, dh, dw) == (1, 1, 1):
            return depthwise_conv3d(x, self.weight, self.stride, self.padding)  # type: ignore[arg-type]
        return super().forward(x)


class MaxPool3d(nn.MaxPool3d):
    """torch's MaxPool3d, computed over frames where it leaves time alone."""


def _fold_time(x: Tensor) -> bool:
    return x.dtype != torch.bfloat16
