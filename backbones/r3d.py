"""3D ResNets (Hara et al., "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?", CVPR 2018) and
mixed convolutions (Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018).

Every k x k convolution of a ResNet is inflated to t x k x k. The names without suffix are torchvision's form: a stem of
3 x 7 x 7 that keeps every frame, no max pool. Those with `_hara` have a stem of 7 x 7 x 7 and a max pool over time and
space. Time is halved at the entrance of each later stage. MC3 has time in its first stage alone.
"""

from __future__ import annotations

from .model import KINETICS, ClipSpec, Entry, tiny_clip
from .resnet3d import InflatedResNet

_TRAN = "Tran et al., A Closer Look at Spatiotemporal Convolutions, CVPR 2018 (arXiv:1711.11248)"
_HARA = "Hara et al., Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs?, CVPR 2018 (arXiv:1711.09577)"
_TV = ClipSpec(16, 2, 112, views=(5, 1), sampling="dense", **KINETICS)
_KENSHO = ClipSpec(
    frames=16, stride=1, size=112, mean=(0.4345, 0.4051, 0.3775), std=(0.2768, 0.2713, 0.2737), views=(10, 1),
    sampling="dense",
)  # fmt: skip
_TINY = tiny_clip(KINETICS)
_BASIC = {"block": "basic", "stem_pool": False}
_MC3 = {**_BASIC, "time_kernels": (3, 1, 1, 1), "time_strides": (1, 1, 1, 1)}
_WITH_POOL = {"stem_kernel_t": 7, "pool_kernel_t": 3, "pool_stride_t": 2}


def _entry(name: str, summary: str, source: str, clip: ClipSpec, classes: int, **defaults: object) -> Entry:
    return Entry(name, summary, source, clip, InflatedResNet, {"num_classes": classes, **defaults})


ENTRIES = (
    _entry("r3d_18", "3D ResNet-18, 16 frames of 112 px", _TRAN, _TV, 400, layers=(2, 2, 2, 2), **_BASIC),
    _entry("r3d_34", "3D ResNet-34, 16 frames of 112 px", _TRAN, _TV, 400, **_BASIC),
    _entry("r3d_50", "3D ResNet-50, 16 frames of 112 px", _TRAN, _TV, 400, stem_pool=False),
    _entry("mc3_18", "MC3-18: time in the first stage, 16 frames of 112 px", _TRAN, _TV, 400, layers=(2, 2, 2, 2),
           **_MC3),
    _entry("r3d_18_hara", "3D ResNet-18 of Hara et al., 16 frames of 112 px", _HARA, _KENSHO, 700, block="basic",
           layers=(2, 2, 2, 2), **_WITH_POOL),
    _entry("r3d_34_hara", "3D ResNet-34 of Hara et al., 16 frames of 112 px", _HARA, _KENSHO, 700, block="basic",
           **_WITH_POOL),
    _entry("r3d_50_hara", "3D ResNet-50 of Hara et al., 16 frames of 112 px", _HARA, _KENSHO, 700, **_WITH_POOL),
    _entry("r3d_tiny", "3D ResNet for a CPU: 8 frames of 48 px", _TRAN, _TINY, 10, layers=(1, 1, 1, 1), width=8,
           **_BASIC),
)  # fmt: skip
