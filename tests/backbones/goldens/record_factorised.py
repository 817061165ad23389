"""Record goldens of R(2+1)D and CSN: torchvision's video ResNet and PyTorchVideo's networks, narrow ones.

    python tests/backbones/goldens/record_factorised.py        # needs torchvision and pytorchvideo; the tests need none

torchvision has no CSN, but VMZ, which published it, built it of torchvision's video ResNet with a convolution of its
own. That convolution is written out here, after the published keys: a product over channels, a norm, and 3 x 3 x 3.
"""

import pytorchvideo
import torchvision
from pytorchvideo.models.csn import create_csn
from pytorchvideo.models.r2plus1d import create_r2plus1d
from record import record
from torch import nn
from torchvision.models.video.resnet import BasicBlock, Bottleneck, Conv2Plus1D, VideoResNet

BY_TORCHVISION = f"torchvision {torchvision.__version__} VideoResNet, widths cut"
BY_PYTORCHVIDEO = f"pytorchvideo {pytorchvideo.__version__}"


class Narrow(VideoResNet):
    """torchvision's video ResNet, three channels wide where it has 64; it has no argument for them."""

    def __init__(self, block: type, conv: type, layers: list[int], stem: type, classes: int) -> None:
        super().__init__(block, [conv] * 4, layers, stem, classes)
        self.fc = nn.Linear(24 * block.expansion, classes)

    def _make_layer(self, block: type, conv: type, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        self.inplanes = 3 if planes == 64 else self.inplanes
        return super()._make_layer(block, conv, planes * 3 // 64, blocks, stride)


class FactorisedStem(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(3, 4, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False), nn.BatchNorm3d(4), nn.ReLU(),
            nn.Conv3d(4, 3, (3, 1, 1), 1, (1, 0, 0), bias=False), nn.BatchNorm3d(3), nn.ReLU(),
        )  # fmt: skip


class PoolStem(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(3, 3, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(3), nn.ReLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )  # fmt: skip


class Preserved(nn.Sequential):
    """The convolution of ip-CSN."""

    def __init__(self, inputs: int, planes: int, midplanes: int, stride: int = 1) -> None:
        point, norm = nn.Conv3d(inputs, planes, 1, bias=False), nn.BatchNorm3d(planes)
        super().__init__(point, norm, nn.Conv3d(planes, planes, 3, stride, 1, groups=planes, bias=False))

    @staticmethod
    def get_downsample_stride(stride: int) -> tuple[int, int, int]:
        return (stride, stride, stride)


def with_eps(network: nn.Module, eps: float) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = eps
    return network


def of_torchvision() -> None:
    """R(2+1)D of basic blocks and of bottlenecks, on a clip of odd sides; ip-CSN."""
    name, small = "r2plus1d_18", {"width": 3, "stem_mid": 4, "num_classes": 5, "layers": [1, 2, 1, 1]}
    basic = Narrow(BasicBlock, Conv2Plus1D, [1, 2, 1, 1], FactorisedStem, 5)
    record("r2plus1d-torchvision", BY_TORCHVISION, {"name": name, **small}, basic, (1, 3, 5, 25, 30))
    deep = Narrow(Bottleneck, Conv2Plus1D, [1, 1, 1, 1], FactorisedStem, 5)
    create = {"name": name, **small, "layers": [1, 1, 1, 1], "block": "bottleneck"}
    record("r2plus1d-torchvision-bottleneck", BY_TORCHVISION, create, deep, (1, 3, 8, 24, 24))
    csn = with_eps(Narrow(Bottleneck, Preserved, [1, 2, 1, 1], PoolStem, 5), 1e-3)
    create = {"name": "ip_csn_50", "width": 3, "num_classes": 5, "layers": [1, 2, 1, 1]}
    record("csn-ip-vmz", f"{BY_TORCHVISION}, with the convolution of ip-CSN", create, csn, (1, 3, 7, 33, 30))


def of_pytorchvideo() -> None:
    """The networks of its model zoo, of 50 layers and few channels."""
    pools = {"head_pool_kernel_size": (1, 1, 1), "head_activation": None, "stem_dim_out": 2, "model_num_class": 5}
    small = {"width": 2, "num_classes": 5}
    r2plus1d = create_r2plus1d(**pools)
    record("r2plus1d-pytorchvideo", BY_PYTORCHVIDEO, {"name": "r2plus1d_50", **small}, r2plus1d, (1, 3, 6, 36, 24))
    csn = create_csn(stem_pool=nn.MaxPool3d, **pools)
    create = {"name": "ir_csn_50", **small, "norm_eps": 1e-5}
    record("csn-ir-pytorchvideo", BY_PYTORCHVIDEO, create, csn, (1, 3, 5, 33, 24))


if __name__ == "__main__":
    of_torchvision()
    of_pytorchvideo()
