"""Attention on a CPU: explicit products against torch's fused kernel, forward and both passes, in one run.

    python benchmarks/attention.py

Prints fused / explicit as a ratio (above 1: explicit products are faster), the median of alternating pairs with the
spread between quartiles. What `attend` in backbones/image/vit.py does, and the two limits there, is chosen by it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands set it

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PAIRS = 9
# sequences, tokens, heads, channels a head: what it is
SHAPES = {
    (512, 8, 3, 32): "timesformer_tiny, over time, 32 clips",
    (256, 17, 3, 32): "timesformer_tiny, over a frame, 32 clips",
    (392, 8, 12, 64): "TimeSformer, over time, 2 clips",
    (64, 49, 12, 64): "49 tokens of 12 heads",
    (8, 197, 12, 64): "TimeSformer, over a frame, a clip",
    (2, 392, 8, 64): "UniFormer, last stage, 2 clips",
    (1, 785, 12, 64): "ViViT, over half a clip",
    (1, 1569, 12, 64): "ViViT, joint, a clip",
}


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5).contiguous() @ k.contiguous().transpose(-2, -1)
    return scores.softmax(-1) @ v.contiguous()


def seconds(attention: Callable[..., Tensor], qkv: Tensor, gradient: Tensor | None) -> float:
    qkv.grad = None
    began = time.perf_counter()
    with torch.set_grad_enabled(gradient is not None):
        out = attention(*qkv.transpose(-4, -2).unbind(-3))
        if gradient is not None:
            out.backward(gradient)
    return time.perf_counter() - began


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for dtype in (torch.float32, torch.bfloat16):
        for (batch, tokens, heads, channels), name in SHAPES.items():
            qkv = torch.randn(batch, tokens, 3, heads, channels, dtype=dtype, requires_grad=True)
            cells = []
            for gradient in (None, torch.randn(batch, heads, tokens, channels, dtype=dtype)):
                ratios = []
                for _ in range(PAIRS + 1):
                    fused = seconds(F.scaled_dot_product_attention, qkv, gradient)
                    ratios.append(fused / seconds(explicit, qkv, gradient))
                low, middle, high = statistics.quantiles(ratios[1:], n=4)
                cells.append(f"{middle:5.2f} ({low:.2f} to {high:.2f})")
            print(
                f"{str(dtype)[6:]:9} {name:42} fused / explicit: forward {cells[0]}, both passes {cells[1]}", flush=True
            )


if __name__ == "__main__":
    main()
