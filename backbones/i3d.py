"""I3D: Inception-v1 inflated (Carreira & Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics
Dataset", CVPR 2017), the stream of RGB.

Shapes: B clips (3, T, H, W); a feature map is (B, C, T', H', W').
    clip (B, 3, T, H, W) -> conv1 (64, T/2, H/2, W/2) -> pool -> conv2, conv3 (192, T/2, H/4, W/4) -> pool -> 3a, 3b
    (480, T/2, H/8, W/8) -> pool -> 4a to 4e (832, T/4, H/16, W/16) -> pool -> 5a, 5b (1024, T/8, H/32, W/32)
    -> average over windows of 2 x 7 x 7 and over their places (B, 1024) -> head (B, num_classes)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from .i3d_weights import I3D_WEIGHTS
from .image.inception import GoogLeNet, MaxPool, Padding
from .lift.conv import fold_frames
from .lift.inflate import How, TimeSpec, inflation
from .lift.walk import Rule, first_of, lift
from .model import HALF, ClipSpec, Entry


class I3D(GoogLeNet):
    """Inception-v1 over a clip, every k x k kernel grown to k x k x k: (B, 3, T, H, W) -> (B, num_classes).

    Parameter names are those of the image network. stem_time is (kernel, stride) along time of the first convolution,
    pool_times those of the four pools between the stages: time goes slower than space at first. avg_pool is the window
    of the last average, (T, H, W), clipped to the map; with a stride of one and a mean over its places, the frames and
    rows at the edge count less. inflation: how image weights are given time by `load_weights`.
    """

    axes: ClassVar[tuple[str, ...]] = ("B", "3", "T", "H", "W")
    weight_rules = I3D_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        width: int = 64,
        large_kernel: int = 3,
        padding: Padding = "same",
        stem_time: Sequence[int] = (7, 2),
        pool_times: Sequence[Sequence[int]] = ((1, 1), (1, 1), (3, 2), (2, 2)),
        avg_pool: Sequence[int] = (2, 7, 7),
        norm_eps: float = 1e-3,
        head_dropout: float = 0.5,
        init_std: float = 0.01,
        inflation: How = "mean",
    ) -> None:
        _check(stem_time, pool_times, avg_pool)
        super().__init__(num_classes, width, large_kernel, padding, norm_eps, head_dropout, init_std)
        self.avg_pool, self.inflation = tuple(avg_pool), inflation
        lift(self, _rule(stem_time, pool_times, padding, inflation))
        self.init_weights()  # an own random start for each moment, where the lift copied the image's

    def embed(self, clip: Tensor) -> Tensor:
        """The last feature map averaged over windows, then over their places: (B, num_features)."""
        x = self.forward_features(clip)
        t, h, w = (min(k, n) for k, n in zip(self.avg_pool, x.shape[2:], strict=True))
        frames = F.avg_pool2d(fold_frames(x), (h, w), stride=1).mean((2, 3))
        return F.avg_pool1d(frames.unflatten(0, (x.shape[0], -1)).transpose(1, 2), t, stride=1).mean(2)


def _rule(stem_time: Sequence[int], pool_times: Sequence[Sequence[int]], padding: Padding, how: How) -> Rule:
    kernel, stride = stem_time
    pads_itself = padding == "same" and stride > 1

    def time(name: str, module: nn.Module) -> TimeSpec:
        if name == "conv1.conv":
            return TimeSpec(kernel, stride, 0 if pads_itself else None)
        return TimeSpec(module.kernel_size[0])  # type: ignore[index,arg-type]

    def pools(name: str, module: nn.Module) -> nn.Module | None:
        if not isinstance(module, MaxPool):
            return None
        between = name.startswith("maxpool")
        k, s = pool_times[int(name.removeprefix("maxpool")) - 1] if between else (module.kernel[0], module.stride[0])
        return MaxPool((k, *module.kernel), (s, *module.stride), padding)

    return first_of(pools, inflation(time, how))


def _check(stem_time: Sequence[int], pool_times: Sequence[Sequence[int]], avg_pool: Sequence[int]) -> None:
    if len(stem_time) != 2 or min(stem_time) < 1 or stem_time[0] % 2 == 0:
        raise ValueError(f"stem_time must be an odd kernel and a stride, got {stem_time!r}")
    pairs = [pool for pool in pool_times if isinstance(pool, Sequence) and len(pool) == 2 and min(pool) >= 1]
    if len(pool_times) != 4 or len(pairs) != 4:
        raise ValueError(f"pool_times must be four pairs of a kernel and a stride, got {pool_times!r}")
    if any(k % 2 == 0 and s == 1 for k, s in pool_times):
        raise ValueError(f"a pool in pool_times with a stride of 1 must have an odd kernel, got {pool_times!r}")
    if len(avg_pool) != 3 or min(avg_pool) < 1:
        raise ValueError(f"avg_pool must be a window (T, H, W), got {avg_pool!r}")


_PAPER = "Carreira & Zisserman, Quo Vadis, Action Recognition?, CVPR 2017 (arXiv:1705.07750)"


def _entry(name: str, summary: str, frames: int, stride: int, size: int, **defaults: object) -> Entry:
    clip = ClipSpec(frames, stride, size, views=(1, 1), sampling="dense", **HALF)
    return Entry(name, summary, _PAPER, clip, I3D, {"num_classes": 400, **defaults})


ENTRIES = (
    _entry("i3d", "I3D: Inception-v1 inflated, 64 frames of 224 px", 64, 1, 224),
    _entry(
        "i3d_tiny", "I3D for a CPU: 8 frames of 48 px, learns motion in a few hundred steps", 8, 2, 48,
        num_classes=10, width=8, stem_time=(3, 1), head_dropout=0.0,
    ),
)  # fmt: skip
