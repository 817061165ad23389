"""Linear layers, each by the kernel that is fast where it runs; parameters are torch's own.

In bf16 on a CPU torch first fills the output with the bias, and then adds the product to it. oneDNN by itself adds the
bias to each tile of the product before that is written, which takes up to 1.3 times less. In fp32 it would take more
(benchmarks/linear.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """torch's Linear, computed by `linear`: (..., in_features) -> (..., out_features)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`, in bf16 without gradients on a CPU by oneDNN: x (..., C), weight (D, C), bias (D,) -> (..., D)."""
    if x.device.type != "cpu" or not _by_onednn(x, weight):
        return F.linear(x, weight, bias)
    x, weight, bias = x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16()  # as autocast would
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """In bf16, of itself or by autocast, with nothing to differentiate or trace, and a plain weight (not, say, a
    quantised one). Shapes that do not fit are left to torch, which says so best."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or type(weight) not in (Tensor, nn.Parameter):
        return False
    if x.shape[-1:] != weight.shape[1:]:
        return False
    if torch.is_autocast_enabled("cpu"):
        narrow = torch.get_autocast_dtype("cpu") == torch.bfloat16 and torch.float64 not in (x.dtype, weight.dtype)
    else:
        narrow = x.dtype == weight.dtype == torch.bfloat16
    return narrow and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
