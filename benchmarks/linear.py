"""Linear layers on a CPU, without gradients: oneDNN's own against torch's, in one run.

    python benchmarks/linear.py

Prints torch / oneDNN as a ratio (above 1: oneDNN is faster), the median of alternating pairs with the spread between
quartiles. What `linear` in backbones/lift/linear.py does is chosen by it.
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

PAIRS = 20
# tokens, channels in, channels out: what it is
SHAPES = {
    (1568, 768, 3072): "ViT-B, into the MLP, a clip of 8 frames",
    (1568, 3072, 768): "ViT-B, out of the MLP",
    (1568, 768, 2304): "ViT-B, queries, keys and values",
    (1568, 768, 768): "ViT-B, out of the attention",
    (6272, 768, 2304): "ViT-B, queries, keys and values, 4 clips",
    (1568, 320, 1280): "UniFormer-S, third stage, into the MLP",
    (1568, 320, 960): "UniFormer-S, queries, keys and values",
    (25088, 96, 384): "Swin-T, first stage, into the MLP",
    (25088, 384, 96): "Swin-T, out of it",
    (6272, 192, 768): "Swin-T, second stage, into the MLP",
    (1, 768, 3072): "ViT-B, a class token alone",
}


def seconds(layer: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    layer()
    return time.perf_counter() - began


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            print("bf16 is left out: this CPU has no instructions for it")
            continue
        for (tokens, channels, out), name in SHAPES.items():
            print(f"{str(dtype)[6:]:9} {name:42} torch / oneDNN: {compare(tokens, channels, out, dtype)}", flush=True)


@torch.inference_mode()
def compare(tokens: int, channels: int, out: int, dtype: torch.dtype) -> str:
    x, weight, bias = torch.randn(tokens, channels), torch.randn(out, channels) * channels**-0.5, torch.randn(out)
    x, weight, bias = (tensor.to(dtype) for tensor in (x, weight, bias))
    ways: tuple[Callable[[], Tensor], ...] = (
        lambda: F.linear(x, weight, bias),
        lambda: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""),
    )
    ratios = []
    for pair in range(PAIRS + 2):  # the first two warm up
        order = (0, 1) if pair % 2 else (1, 0)
        taken = {way: seconds(ways[way]) for way in order}
        ratios.append(taken[0] / taken[1])
    low, middle, high = statistics.quantiles(ratios[2:], n=4)
    return f"{middle:5.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
