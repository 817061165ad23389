"""Depthwise convolution in space-time, with a backward pass that is as fast as its forward on a CPU.

Shapes: B clips, C channels, T frames; x (B, C, T, H, W), weight (C, 1, t, k, l), grad of the output (B, C, T', H', W').

PyTorch's own backward of it is 10 to 90 times slower than the forward there (64 channels, 16 x 56 x 56, two threads:
63 ms against 1.6 in fp32, 174 against 1 in bf16). But the gradient of the input is such a convolution too, with the
kernel reversed, and that of the weight is one two-dimensional gradient over frames for each of the t temporal taps,
both of which are fast: 7 ms and 3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, library
from torch.autograd.function import once_differentiable

Triple = tuple[int, int, int]
_COLUMNS = 3  # of weights whose gradient oneDNN is fast at: that of 5 takes 16 times as long in fp32, 30 in bf16


def depthwise_conv3d(x: Tensor, weight: Tensor, stride: Triple, padding: Triple, bias: Tensor | None = None) -> Tensor:
    """`F.conv3d(x, weight, bias, groups=C)` for one filter a channel; the same values and gradients, sooner."""
    own_backward = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if not own_backward or x.device.type != "cpu" or torch.compiler.is_exporting():
        return F.conv3d(x, weight, bias, stride, padding, groups=x.shape[1])
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
    y = _Depthwise.apply(x, weight, stride, padding)
    return y if bias is None else y + bias.to(y.dtype).view(-1, 1, 1, 1)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv3d(x, weight, None, stride, padding, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        of_x = _input_gradient(grad, weight, x.shape, ctx.stride, ctx.padding) if ctx.needs_input_grad[0] else None
        of_weight = _weight_gradient(grad, x, weight, ctx.stride, ctx.padding) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None, None


def _input_gradient(grad: Tensor, weight: Tensor, shape: torch.Size, stride: Triple, padding: Triple) -> Tensor:
    """The kernel reversed, over the gradient put back on the grid it was strided from."""
    sizes, kernel = shape[2:], weight.shape[2:]
    around = [k - 1 - p for k, p in zip(kernel, padding, strict=True)]
    grid = [n + k - 1 - 2 * a for n, k, a in zip(sizes, kernel, around, strict=True)]
    if tuple(grid) != tuple(grad.shape[2:]):
        spread = grad.new_zeros(shape[0], *grid, shape[1]).permute(0, 4, 1, 2, 3)
        strided = spread[:, :, :: stride[0], :: stride[1], :: stride[2]]
        strided[:, :, : grad.shape[2], : grad.shape[3], : grad.shape[4]] = grad
        grad = spread
    return F.conv3d(grad, weight.flip(2, 3, 4), None, 1, around, groups=shape[1])


@library.custom_op(
    "tubelet::depthwise_weight_gradient",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, int[] stride, int[] padding) -> Tensor",
)
def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
    """Tap by tap along time, and at most `_COLUMNS` of the kernel's columns at once. An operator, since a compiler
    would take twice as long over a network with all of these taps."""
    columns, of_weight = weight.shape[4], torch.empty_like(weight)
    if columns <= _COLUMNS:
        return of_weight.copy_(_by_temporal_tap(grad, x, weight, stride, padding))
    padded, reach = F.pad(x, (padding[2], padding[2])), (grad.shape[4] - 1) * stride[2]
    for first in range(0, columns, _COLUMNS):
        part = weight[..., first : first + _COLUMNS]
        seen = padded[..., first : first + reach + part.shape[4]].contiguous(memory_format=torch.channels_last_3d)
        of_weight[..., first : first + _COLUMNS] = _by_temporal_tap(grad, seen, part, stride, (*padding[:2], 0))
    return of_weight


@_weight_gradient.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
    return torch.empty_like(weight)


def _by_temporal_tap(grad: Tensor, x: Tensor, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
    """A two-dimensional gradient for each temporal tap, over the frames it pairs: j of the output saw
    j * stride + tap - padding."""
    taps = []
    for tap in range(weight.shape[2]):
        first = max(0, -((tap - padding[0]) // stride[0]))
        last = min(grad.shape[2] - 1, (x.shape[2] - 1 - tap + padding[0]) // stride[0])
        if last < first:
            taps.append(torch.zeros_like(weight[:, :, tap]))
            continue
        seen = x[:, :, first * stride[0] + tap - padding[0] :: stride[0]][:, :, : last - first + 1]
        pair = [frames.transpose(1, 2).flatten(0, 1) for frames in (grad[:, :, first : last + 1], seen)]
        taps.append(
            torch.ops.aten.convolution_backward(
                *pair, weight[:, :, tap], None, stride[1:], padding[1:], (1, 1), False, (0, 0), x.shape[1],
                (False, True, False),
            )[1]
        )  # fmt: skip
    return torch.stack(taps, dim=2)
