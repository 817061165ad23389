"""GoogLeNet: Inception-v1 with batch normalisation (Szegedy et al., "Going Deeper with Convolutions", CVPR 2015; Ioffe
and Szegedy, "Batch Normalization", ICML 2015), with torchvision's names.

Shapes: B images (3, H, W); a feature map is (B, C, H', W').
    image (B, 3, H, W) -> conv1 / 2 -> pool / 2 -> conv2, conv3 -> pool / 2 -> 3a, 3b -> pool / 2 -> 4a to 4e
    -> pool / 2 -> 5a, 5b (B, 1024, H / 32, W / 32) -> mean (B, 1024) -> head (B, num_classes)

Everything but the average at the end is written for any number of axes, so that a lift to video only replaces the
convolutions, the norms and the windows of the pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..lift.conv import conv_norm
from ..model import HALF, Entry, Model, image_clip
from .inception_weights import INCEPTION_WEIGHTS

Padding = Literal["symmetric", "same"]

# Channels of each block (table 1 of the paper): branch1; branch2's 1x1 and 3x3; branch3's 1x1 and larger; branch4.
PLAN = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
BODY = (
    "conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3", "inception4a",
    "inception4b", "inception4c", "inception4d", "inception4e", "maxpool4", "inception5a", "inception5b",
)  # fmt: skip


def same_padding(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """TensorFlow's SAME padding, (before, after) along each axis: ceil(size / stride) outputs, the odd one after."""
    missing = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, stride, strict=True)]
    return [(total // 2, total - total // 2) for total in missing]


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, ReLU. "same" with a stride depends on the input's size: see `forward`."""

    def __init__(
        self, channels: int, out: int, kernel: int, norm_eps: float, stride: int = 1, padding: Padding = "symmetric"
    ) -> None:
        super().__init__()
        self.pads_itself = padding == "same" and stride > 1
        inner = 0 if self.pads_itself else kernel // 2
        self.conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=inner, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        if self.pads_itself:  # only the stem's convolution has a stride, so what is copied is the input
            sizes = same_padding(x.shape[2:], self.conv.kernel_size, self.conv.stride)
            x = F.pad(x, [n for pair in reversed(sizes) for n in pair])
        return F.relu(conv_norm(self.conv, self.bn, x), inplace=True)


class MaxPool(nn.Module):
    """Max pooling over as many axes as `kernel` has. "symmetric" pads stride-1 windows and lets the last window of
    others reach beyond the edge; "same" pads as TensorFlow does. Padding never wins a maximum."""

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...], padding: Padding = "symmetric") -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        before = self.edges(x.shape[2:])
        if x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            for axis in reversed(range(len(self.kernel))):
                x = _maximum_along(x, axis + 2, self.kernel[axis], self.stride[axis], before[axis])
            return x
        pool = F.max_pool2d if len(self.kernel) == 2 else F.max_pool3d
        return pool(x, self.kernel, self.stride, before, ceil_mode=True)

    def edges(self, sizes: Sequence[int]) -> list[int]:
        """The padding before each axis. What SAME has after it beyond that, the pool's ceiling mode amounts to."""
        if self.padding == "same":
            return [before for before, _ in same_padding(sizes, self.kernel, self.stride)]
        return [k // 2 if s == 1 else 0 for k, s in zip(self.kernel, self.stride, strict=True)]

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, padding={self.padding!r}"


def _maximum_along(x: Tensor, axis: int, kernel: int, stride: int, before: int) -> Tensor:
    """Max pooling along one axis: the elementwise maximum of shifted copies of `x`. Axis by axis that is 2 to 5 times
    faster on a CPU than torch's pools, which find the places of the maxima too, for a backward pass."""
    if kernel == stride == 1:
        return x
    size = x.shape[axis]
    windows = -(-max(size + 2 * before - kernel, 0) // stride) + 1  # the last may reach over the edge, not begin there
    places = min(windows, -(-size // stride))

    def every(start: int, count: int) -> Tensor:
        where = (*[slice(None)] * axis, slice(start, None, stride))
        return x[where].narrow(axis, 0, count)

    y = every(0, places).clone()
    for tap in range(kernel):
        first = max(-((tap - before) // stride), 0)
        count = min((size - 1 - tap + before) // stride, places - 1) - first + 1
        if tap != before and count > 0:
            part = y.narrow(axis, first, count)
            torch.maximum(part, every(first * stride + tap - before, count), out=part)
    return y


class Inception(nn.Module):
    """Four branches side by side: over 1x1 windows, over two sizes of larger ones, and over maxima."""

    def __init__(
        self, channels: int, plan: Sequence[int], large_kernel: int, norm_eps: float, padding: Padding
    ) -> None:
        super().__init__()
        one, two_in, two, three_in, three, four = plan
        self.branch1 = ConvUnit(channels, one, 1, norm_eps)
        self.branch2 = nn.Sequential(ConvUnit(channels, two_in, 1, norm_eps), ConvUnit(two_in, two, 3, norm_eps))
        self.branch3 = nn.Sequential(
            ConvUnit(channels, three_in, 1, norm_eps), ConvUnit(three_in, three, large_kernel, norm_eps)
        )
        self.branch4 = nn.Sequential(MaxPool((3, 3), (1, 1), padding), ConvUnit(channels, four, 1, norm_eps))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class GoogLeNet(Model):
    """Inception-v1 as an image classifier: (B, 3, H, W) -> (B, num_classes).

    width: channels of the first convolution, all others in proportion. large_kernel: 5 as in the paper, or 3 as in the
    networks of TensorFlow and torchvision. padding: "symmetric" as torchvision, whose pools with a stride have none but
    reach over the far edge, or "same" as TensorFlow, whose weights torchvision's are. The auxiliary classifiers of
    training are left out.
    """

    axes: ClassVar[tuple[str, ...]] = ("B", "3", "H", "W")
    weight_rules = INCEPTION_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        width: int = 64,
        large_kernel: int = 3,
        padding: Padding = "symmetric",
        norm_eps: float = 1e-3,
        head_dropout: float = 0.2,
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        if padding not in ("symmetric", "same"):
            raise ValueError(f"padding must be 'symmetric' or 'same', got {padding!r}")
        if large_kernel not in (3, 5):
            raise ValueError(f"large_kernel must be 3 or 5, got {large_kernel!r}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width!r}")
        first, second, third = (max(n * width // 64, 1) for n in (64, 64, 192))
        self.smallest = 15 if padding == "symmetric" else 1
        self.conv1 = ConvUnit(3, first, 7, norm_eps, stride=2, padding=padding)
        self.maxpool1 = MaxPool((3, 3), (2, 2), padding)
        self.conv2 = ConvUnit(first, second, 1, norm_eps)
        self.conv3 = ConvUnit(second, third, 3, norm_eps)
        self.maxpool2 = MaxPool((3, 3), (2, 2), padding)
        channels = third
        for name, plan in PLAN.items():
            if name == "inception4a":
                self.maxpool3 = MaxPool((3, 3), (2, 2), padding)
            elif name == "inception5a":
                self.maxpool4 = MaxPool((2, 2), (2, 2), padding)
            widths = [max(n * width // 64, 1) for n in plan]
            self.add_module(name, Inception(channels, widths, large_kernel, norm_eps, padding))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.num_features = channels
        self.head_drop = nn.Dropout(head_dropout)
        self.head = nn.Linear(channels, num_classes)
        self.init_std = init_std
        self.init_weights()

    def init_weights(self) -> None:
        """Convolutions and head narrowly normal, as published; the norms after them set the scale."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=self.init_std)
        nn.init.zeros_(self.head.bias)

    def forward_features(self, image: Tensor) -> Tensor:
        """The last feature map: (B, num_features, H / 32, W / 32)."""
        self.check_input(image, smallest=self.smallest)
        layout = torch.channels_last if image.ndim == 4 else torch.channels_last_3d
        x = image.contiguous(memory_format=layout)
        for name in BODY:
            x = self.run(self.get_submodule(name), x)
        return x

    def embed(self, image: Tensor) -> Tensor:
        """The average of the last feature map, (B, num_features)."""
        return self.forward_features(image).mean((-2, -1))

    def no_weight_decay(self) -> set[str]:
        return set()

    def stages(self) -> list[tuple[str, ...]]:
        return [("conv2.", "conv3."), *((f"{name}.",) for name in PLAN), ("head.",)]


_GOOGLENET = "Szegedy et al., Going Deeper with Convolutions, CVPR 2015 (arXiv:1409.4842)"
_CLIP = image_clip(HALF)  # torchvision normalises as for its other networks, and undoes that here (transform_input)

ENTRIES = (
    Entry(
        "googlenet", "GoogLeNet (Inception-v1 with batch norm), 224 px", _GOOGLENET, _CLIP, GoogLeNet,
        {"num_classes": 1000}, kind="image",
    ),
)  # fmt: skip
