"""P3D (Qiu et al., "Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks", ICCV 2017): a ResNet
with a convolution over time beside or after the 3 x 3 one of each bottleneck of its first three stages.

Shapes: B clips, T frames, w = width.
    clip (B, 3, T, H, W) -> conv1, maxpool (B, w, T/2, H/4, W/4) -> layer1, pool (B, 4*w, T/4, H/4, W/4)
    -> layer2, pool (B, 8*w, T/8, H/8, W/8) -> layer3, pool (B, 16*w, T/16, H/16, W/16)
    -> layer4 on each frame (B, 32*w, T/16, H/32, W/32) -> mean -> head (B, num_classes)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from .image.resnet import Bottleneck
from .lift.conv import conv_norm
from .lift.pseudo3d import pseudo3d_conv
from .lift.walk import Rule
from .model import IMAGENET, ClipSpec, Entry
from .p3d_weights import P3D_WEIGHTS
from .resnet3d import VideoResNet

Form = Literal["caffe", "port"]


class P3D(VideoResNet):
    """An image ResNet of bottlenecks, pseudo-3D: `conv2` becomes `conv2.{space, space_bn, time, time_bn}`.

    kinds: the blocks of the first three stages, in order and repeated; the last stage sees each frame by itself. The
    stride of a block lies in its first convolution.
    form: "caffe" is the released network; its pools take in the borders that are left over, so any clip will do.
    "port" is the common PyTorch port, for whose weights it is: the first pool is padded, the others drop what is left
    over, so that a clip needs 16 frames, and the ReLUs lie elsewhere (lift/pseudo3d.py).
    c_scale: a factor on the sum of the C blocks, 1 in paper and port. The released graphs have 0.5 there, which is the
    same as half the weights of the convolution after it. The other arguments are those of `ResNet`.
    """

    weight_rules = P3D_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        layers: Sequence[int] = (3, 8, 36, 3),
        width: int = 64,
        kinds: Sequence[str] = "ABC",
        form: Form = "caffe",
        c_scale: float = 1.0,
        time_kernel: int = 3,
        stem_kernel: int = 7,
        norm_eps: float = 1e-5,
        head_dropout: float = 0.5,
        drop_path: float = 0.0,
        zero_init: bool = False,
    ) -> None:
        if form not in ("caffe", "port"):
            raise ValueError(f"form must be 'caffe' or 'port', got {form!r}")
        if not kinds or not set(kinds) <= set("ABC"):
            raise ValueError(f"kinds must be of the blocks A, B and C, got {kinds!r}")
        if time_kernel < 1 or time_kernel % 2 == 0:
            raise ValueError(f"time_kernel must be odd, got {time_kernel}")
        super().__init__(
            pseudo3d(kinds, layers, form, time_kernel, c_scale), num_classes=num_classes, layers=layers, width=width,
            stem_kernel=stem_kernel, norm_eps=norm_eps, head_dropout=head_dropout, drop_path=drop_path,
            zero_init=zero_init,
        )  # fmt: skip
        self.time_pool = nn.MaxPool3d((2, 1, 1), ceil_mode=form == "caffe")
        self.smallest, self._shortest = (3, 1) if form == "caffe" else (1, 16)

    def forward_features(self, image: Tensor) -> Tensor:
        """The feature map of the last stage, (B, num_features, T/16, H/32, W/32)."""
        self.check_input(image, smallest=self.smallest, shortest=self.shortest())
        x = image.contiguous(memory_format=torch.channels_last_3d)
        x = self.maxpool(self.relu(conv_norm(self.conv1, self.bn1, x)))
        for stage in (1, 2, 3):
            for block in self.get_submodule(f"layer{stage}").children():
                x = self.run(block, x)
            x = self.time_pool(x)
        for block in self.get_submodule("layer4").children():
            x = self.run(block, x)
        return x


def pseudo3d(kinds: Sequence[str], layers: Sequence[int], form: Form, t: int, c_scale: float) -> Rule:
    """The rule that makes the bottlenecks of the first three stages pseudo-3D, and pools over pairs of frames."""
    starts = [sum(layers[:stage]) for stage in range(4)]

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if name == "maxpool":
            return nn.MaxPool3d((2, 3, 3), 2, 0 if form == "caffe" else (0, 1, 1), ceil_mode=form == "caffe")
        if isinstance(module, Bottleneck):
            stage, index = map(int, name.removeprefix("layer").split("."))
            if index == 0:
                module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
            if stage < 4:
                kind = kinds[(starts[stage - 1] + index) % len(kinds)]
                pseudo = pseudo3d_conv(
                    module.conv2, module.bn2, cast(Literal["A", "B", "C"], kind), t, form == "port", c_scale
                )
                setattr(module, "conv2", pseudo)  # noqa: B010 (declared as the image network's)
                setattr(module, "bn2", nn.Identity())  # noqa: B010
        return None

    return rule


_PAPER = (
    "Qiu et al., Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks, ICCV 2017 (arXiv:1711.10305)"
)


def _entry(name: str, summary: str, clip: tuple[int, int, int], views: tuple[int, int], **defaults: object) -> Entry:
    spec = ClipSpec(*clip, views=views, sampling="dense", **IMAGENET)
    return Entry(name, summary, _PAPER, spec, P3D, {"num_classes": 400, **defaults})


ENTRIES = (
    _entry("p3d_199", "P3D-199 (ResNet-152), 16 frames of 160 px", (16, 1, 160), (20, 1)),
    _entry("p3d_tiny", "P3D for a CPU: 8 frames of 48 px", (8, 2, 48), (1, 3), num_classes=10, layers=(1, 1, 1, 1),
           width=24, stem_kernel=5, head_dropout=0.0),
)  # fmt: skip
