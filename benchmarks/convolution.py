"""Convolution and max pooling of video on a CPU: the ways to compute one, both passes, in one run.

    python benchmarks/convolution.py                     # one thread, the shapes of the networks, a minute
    python benchmarks/convolution.py --threads 2 --only "3 x 1 x 1"

Prints billions of multiply-accumulates a second (for pools, elements), the best of alternating rounds. `ours` is what
backbones/lift/conv.py takes; it should be the highest of its line, or near it. The table there is of this script.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands set it

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.backbones.lift.conv import Conv3d, fold_frames, unfold_frames

# clip (B, C, T, side), channels out, kernel, stride, groups
SHAPES = (
    ((1, 64, 8, 56), 64, (1, 3, 3), (1, 1, 1), 1),
    ((1, 256, 8, 56), 64, (1, 1, 1), (1, 1, 1), 1),
    ((1, 256, 8, 56), 512, (1, 1, 1), (1, 2, 2), 1),
    ((1, 64, 8, 56), 64, (3, 1, 1), (1, 1, 1), 1),
    ((1, 230, 8, 28), 128, (3, 1, 1), (2, 1, 1), 1),
    ((1, 1024, 4, 14), 256, (3, 1, 1), (1, 1, 1), 1),
    ((1, 64, 8, 56), 64, (3, 3, 3), (1, 1, 1), 1),
    ((1, 3, 16, 112), 64, (3, 7, 7), (1, 2, 2), 1),
    ((1, 64, 8, 56), 64, (3, 3, 3), (1, 1, 1), 64),
    ((1, 64, 8, 56), 64, (5, 5, 5), (1, 1, 1), 64),
)
POOLS = (
    ((1, 64, 8, 112), (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ((1, 192, 8, 28), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((1, 256, 8, 56), (2, 1, 1), (2, 1, 1), (0, 0, 0)),
)
Ways = dict[str, Callable[[Tensor], Tensor]]


def of_convolution(conv: Conv3d) -> Ways:
    """Ours, torch's on contiguous and on channels-last tensors, and folded where the kernel allows."""
    weight, (st, *stride), (pt, *padding) = conv.weight, conv.stride, conv.padding
    plain = nn.Parameter(weight.detach().contiguous())

    def contiguous(x: Tensor) -> Tensor:
        return F.conv3d(x.contiguous(), plain, None, conv.stride, conv.padding, 1, conv.groups)

    def channels_last(x: Tensor) -> Tensor:
        return F.conv3d(x, weight, None, conv.stride, conv.padding, 1, conv.groups)

    def frames(x: Tensor) -> Tensor:
        y = F.conv2d(fold_frames(x[:, :, ::st]), weight.squeeze(2), None, stride, padding, 1, conv.groups)
        return unfold_frames(y, x.shape[0])

    def time_alone(x: Tensor) -> Tensor:
        folded = x.permute(0, 2, 3, 4, 1).flatten(2, 3).permute(0, 3, 1, 2)
        y = F.conv2d(folded, weight.flatten(3), None, (st, 1), (pt, 0), 1, conv.groups)
        return y.unflatten(3, x.shape[3:])

    ways: Ways = {"ours": conv, "contiguous": contiguous, "channels-last": channels_last}
    if conv.kernel_size[0] == 1:
        ways["frames folded"] = frames
    elif conv.kernel_size[1:] == (1, 1):
        ways["space folded"] = time_alone
    return ways


def of_pool(kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> Ways:
    """torch's own, and one over frames followed by one over time."""

    def separate(x: Tensor) -> Tensor:
        if kernel[1:] != (1, 1):
            pooled = F.max_pool2d(fold_frames(x), kernel[1:], stride[1:], padding[1:])
            x = unfold_frames(pooled, x.shape[0])
        if kernel[0] > 1:
            shape = x.shape[3:]
            x = F.max_pool2d(x.flatten(3), (kernel[0], 1), (stride[0], 1), (padding[0], 0)).unflatten(3, shape)
        return x

    return {"ours": lambda x: F.max_pool3d(x, kernel, stride, padding), "separate": separate}


def compare(ways: Ways, x: Tensor, work: int, rounds: int, passes: str) -> str:
    best = dict.fromkeys(ways, float("inf"))
    train = passes == "both"
    for _ in range(rounds + 1):
        for name, way in ways.items():
            leaf = x.detach().requires_grad_(train)
            began = time.perf_counter()
            with torch.set_grad_enabled(train):
                y = way(leaf)
                if train:
                    y.backward(y.detach())
            best[name] = min(best[name], time.perf_counter() - began)
    rates = {name: work * (3 if train else 1) / seconds / 1e9 for name, seconds in best.items()}
    return "  ".join(f"{name} {rate:6.1f}" for name, rate in rates.items())


def clip(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, shape[-1]).to(dtype).contiguous(memory_format=torch.channels_last_3d)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", default="", help="part of a line's name")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads")
    for dtype in (torch.float32, torch.bfloat16):
        for passes in ("forward", "both"):
            for shape, outputs, kernel, stride, groups in SHAPES:
                channels = f"{shape[1]} > {outputs}" if groups == 1 else f"{groups} alone"
                name = f"{' x '.join(map(str, kernel))}, {channels}, {shape[2]} x {shape[3]}"
                if options.only in name:
                    padding = tuple(k // 2 for k in kernel)
                    conv = Conv3d(shape[1], outputs, kernel, stride, padding, groups=groups, bias=False).to(dtype)
                    with torch.no_grad():
                        x = clip(shape, dtype)
                        work = conv(x).numel() * conv.weight[0].numel()
                    line = compare(of_convolution(conv), x, work, options.rounds, passes)
                    print(f"{str(dtype)[6:]:9}{passes:8} {name:36} {line}", flush=True)
            for shape, kernel, stride, padding in POOLS:
                name = f"pool {' x '.join(map(str, kernel))}, {shape[1]}, {shape[2]} x {shape[3]}"
                if options.only in name:
                    x = clip(shape, dtype)
                    line = compare(of_pool(kernel, stride, padding), x, x.numel(), options.rounds, passes)
                    print(f"{str(dtype)[6:]:9}{passes:8} {name:36} {line}", flush=True)


if __name__ == "__main__":
    main()
