"""Attention on a CPU: explicit products against torch's fused kernel, both passes, in one run.

    python benchmarks/attention.py

Prints fused / explicit as a ratio (above 1: explicit products are faster), the median of alternating pairs with the
spread between quartiles. `SHORT_ON_CPU` in backbones/image/vit.py is chosen by it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands set it

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from tubelet.backbones.image.vit import attend

PAIRS = 9
# sequences, tokens, heads, channels a head: what it is
SHAPES = {
    (512, 8, 3, 32): "timesformer_tiny, over time, 32 clips",
    (256, 17, 3, 32): "timesformer_tiny, over a frame, 32 clips",
    (392, 8, 12, 64): "TimeSformer, over time, 2 clips",
    (64, 49, 12, 64): "49 tokens of 12 heads",
}


def seconds(attention: Callable[..., torch.Tensor], qkv: torch.Tensor, gradient: torch.Tensor) -> float:
    qkv.grad = None
    began = time.perf_counter()
    q, k, v = qkv.transpose(-4, -2).unbind(-3)
    attention(q, k, v, dropout_p=0.0).backward(gradient)
    return time.perf_counter() - began


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for dtype in (torch.float32, torch.bfloat16):
        for (batch, tokens, heads, channels), name in SHAPES.items():
            qkv = torch.randn(batch, tokens, 3, heads, channels, dtype=dtype, requires_grad=True)
            gradient = torch.randn(batch, heads, tokens, channels, dtype=dtype)
            ratios = []
            for _ in range(PAIRS + 1):
                fused = seconds(F.scaled_dot_product_attention, qkv, gradient)
                ratios.append(fused / seconds(attend, qkv, gradient))
            low, middle, high = statistics.quantiles(ratios[1:], n=4)
            print(f"{str(dtype)[6:]:9} {name:42} fused / explicit {middle:5.2f}  ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
