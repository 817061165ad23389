"""Record goldens of the residual networks by inflation and of their image networks, narrow ones.

python tests/backbones/goldens/record_resnet.py    # needs timm, torchvision and pytorchvideo; the tests need none
"""

import pytorchvideo
import timm
import torchvision
from pytorchvideo.models.resnet import create_resnet
from record import record
from torch import nn
from torchvision.models import resnet as image
from torchvision.models.video import resnet as video

BY_TORCHVISION = f"torchvision {torchvision.__version__}, widths cut"
BY_TIMM = f"timm {timm.__version__}, widths cut"
BY_PYTORCHVIDEO = f"pytorchvideo {pytorchvideo.__version__}"


class NarrowImage(image.ResNet):
    """torchvision's ResNet, four channels wide where it has 64; it has no argument for them."""

    def __init__(self, block: type, layers: list[int], classes: int, **arguments: int) -> None:
        super().__init__(block, layers, classes, **arguments)
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4)
        self.fc = nn.Linear(32 * block.expansion, classes)

    def _make_layer(self, block: type, planes: int, *rest: int, **options: object) -> nn.Sequential:
        self.inplanes = 4 if planes == 64 else self.inplanes
        return super()._make_layer(block, planes // 16, *rest, **options)


class NarrowVideo(video.VideoResNet):
    """torchvision's video ResNet, three channels wide where it has 64."""

    def __init__(self, block: type, convs: list[type], layers: list[int], classes: int) -> None:
        super().__init__(block, convs, layers, Stem, classes)
        self.fc = nn.Linear(24 * block.expansion, classes)

    def _make_layer(self, block: type, conv: type, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        self.inplanes = 3 if planes == 64 else self.inplanes
        return super()._make_layer(block, conv, planes * 3 // 64, blocks, stride)


class Stem(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv3d(3, 3, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(3), nn.ReLU())


def images() -> None:
    """Odd sizes of ResNet, ResNeXt and Wide ResNet; timm's with squeeze and excitation."""
    small, layers = {"num_classes": 5, "width": 4}, [2, 1, 1, 1]
    basic = NarrowImage(image.BasicBlock, layers, 5)
    record("resnet-basic-odd", BY_TORCHVISION, {**small, "name": "resnet_18", "layers": layers}, basic, (2, 3, 37, 30))
    for name, kind, groups, width in (
        ("resnext", "resnext_50_32x4d", 2, 32),
        ("wide-resnet", "wide_resnet_50", 1, 96),
    ):
        create = {**small, "name": kind, "layers": layers, "groups": groups, "width_per_group": width}
        network = NarrowImage(image.Bottleneck, layers, 5, groups=groups, width_per_group=width)
        record(name, BY_TORCHVISION, create, network, (1, 3, 33, 40))
    squeezing = timm.models.resnet.ResNet(
        timm.models.resnet.Bottleneck, layers, num_classes=5, channels=(4, 8, 16, 32), stem_width=4,
        block_args={"attn_layer": "se"},
    )  # fmt: skip
    squeezing.conv1, squeezing.bn1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4)
    squeezing.layer1[0].conv1 = nn.Conv2d(4, 4, 1, bias=False)
    squeezing.layer1[0].downsample[0] = nn.Conv2d(4, 16, 1, bias=False)
    record("se-resnet-timm", BY_TIMM, {**small, "name": "se_resnet_50", "layers": layers}, squeezing, (1, 3, 33, 40))


def videos() -> None:
    """r3d and mc3 of torchvision, on odd clips; I3D, Slow and C2D of PyTorchVideo."""
    small, layers = {"num_classes": 5, "width": 3}, [1, 2, 1, 1]
    dense, flat = video.Conv3DSimple, video.Conv3DNoTemporal
    for name, model, block, convs in (
        ("r3d-torchvision", "r3d_18", video.BasicBlock, [dense] * 4),
        ("r3d-torchvision-bottleneck", "r3d_50", video.Bottleneck, [dense] * 4),
        ("mc3-torchvision", "mc3_18", video.BasicBlock, [dense, flat, flat, flat]),
    ):
        network = NarrowVideo(block, convs, layers, 5)
        record(name, BY_TORCHVISION, {**small, "name": model, "layers": layers}, network, (1, 3, 5, 35, 28))
    i3d = ((3, 1, 1), [(3, 1, 1), (1, 1, 1)], [(3, 1, 1), (1, 1, 1)], [(1, 1, 1), (3, 1, 1)])
    slow = ((1, 1, 1), (1, 1, 1), (3, 1, 1), (3, 1, 1))
    for name, stem, kernels, pool in (
        ("i3d_r50", 5, i3d, nn.MaxPool3d), ("slow_r50", 1, slow, None), ("c2d_r50", 1, ((1, 1, 1),) * 4, nn.MaxPool3d),
    ):  # fmt: skip
        network = create_resnet(
            model_num_class=5, dropout_rate=0, stem_dim_out=2, stem_conv_kernel_size=(stem, 7, 7), stage1_pool=pool,
            stage_conv_a_kernel_size=kernels, head_pool=nn.AdaptiveAvgPool3d, head_pool_kernel_size=1,
            head_activation=None,
        )  # fmt: skip
        create = {"name": name, "num_classes": 5, "width": 2}
        record(f"{name.replace('_', '-')}-pytorchvideo", BY_PYTORCHVIDEO, create, network, (1, 3, 5, 35, 28))


if __name__ == "__main__":
    images()
    videos()
