"""ResNet-50 of video by inflation: I3D (Carreira and Zisserman; Wang et al., "Non-local Neural Networks", CVPR 2018),
the Slow pathway of SlowFast (Feichtenhofer et al., ICCV 2019), and C2D, which has no time but one pool.

The first 1 x 1 convolution of a block becomes 3 x 1 x 1 in the blocks of the schedule. `i3d_r50` is SlowFast's and
PyTorchVideo's form: full frame rate until a max pool over pairs of frames after layer1. MMAction2's, for 32 frames,
also strides in the stem: `create_model("i3d_r50", frames=32, stem_stride_t=2, pool_stride_t=2)`.
"""

from __future__ import annotations

from typing import Any

from .model import GREY, ClipSpec, Entry, tiny_clip
from .resnet3d import InflatedResNet

_I3D = "Wang et al., Non-local Neural Networks, CVPR 2018 (arXiv:1711.07971), after arXiv:1705.07750"
_SLOW = "Feichtenhofer et al., SlowFast Networks for Video Recognition, ICCV 2019 (arXiv:1812.03982)"
_CLIP = ClipSpec(8, 8, 256, views=(10, 3), sampling="dense", **GREY)
_TINY = tiny_clip(GREY)

_FULL_RATE: dict[str, Any] = {"time_strides": (1, 1, 1, 1), "time_in": "first"}
_I3D_TIME: dict[str, Any] = {
    **_FULL_RATE,
    "stem_kernel_t": 5,
    "stage_pool": 2,
    "time_kernels": (3, (3, 1), (3, 1), (1, 3)),
}
_SLOW_TIME: dict[str, Any] = {**_FULL_RATE, "stem_kernel_t": 1, "time_kernels": (1, 1, 3, 3)}
_C2D_TIME: dict[str, Any] = {**_FULL_RATE, "stem_kernel_t": 1, "time_kernels": (1, 1, 1, 1)}
_SMALL: dict[str, Any] = {"layers": (1, 1, 1, 1), "width": 16}


def _entry(
    name: str, summary: str, source: str, clip: ClipSpec = _CLIP, classes: int = 400, **defaults: object
) -> Entry:
    return Entry(name, summary, source, clip, InflatedResNet, {"num_classes": classes, **defaults})


ENTRIES = (
    _entry("i3d_r50", "I3D with ResNet-50, 8 frames of 256 px", _I3D, **_I3D_TIME),
    _entry("slow_r50", "Slow pathway with ResNet-50, 8 frames of 256 px", _SLOW, **_SLOW_TIME),
    _entry("c2d_r50", "ResNet-50 over frames, pooled over time, 8 frames of 256 px", _I3D, stage_pool=2, **_C2D_TIME),
    _entry("i3d_r50_tiny", "I3D-ResNet for a CPU: 8 frames of 48 px", _I3D, _TINY, 10, **_I3D_TIME,
           **_SMALL | {"width": 12}),
    _entry("slow_r50_tiny", "Slow pathway for a CPU: 8 frames of 48 px", _SLOW, _TINY, 10, **_SLOW_TIME, **_SMALL),
    _entry("c2d_r50_tiny", "C2D for a CPU: blind to the order of its 8 frames of 48 px", _I3D, _TINY, 10, **_C2D_TIME,
           **_SMALL),
)  # fmt: skip
