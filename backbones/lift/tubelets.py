"""Tubelet embedding: the patch embedding of an image, given a side in time (ViViT, section 3.2).

Shapes: clip (B, 3, T, H, W), tubelets of t x h x w pixels, N = (H // h) * (W // w) of them at each of T // t times.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .inflate import How, inflate_weight


class TubeletEmbed(nn.Module):
    """Linear embedding of tubelets: (B, 3, T, H, W) -> (B, T // t, N, C). Pixels past the last whole one go unseen.

    Made from the convolution that embeds an image's patches, whose weights it keeps: "centre" gives its kernel to
    frame t // 2 of each tubelet, "mean" an equal share to every frame. Both see a still video as the image.
    """

    def __init__(self, conv: nn.Conv2d, frames: int, how: How = "centre") -> None:
        super().__init__()
        if conv.stride != conv.kernel_size or conv.groups != 1 or conv.padding not in ((0, 0), "valid"):
            raise ValueError(f"patches that overlap, are padded or grouped cannot become tubelets: {conv}")
        self.proj = _Tubelets(conv, frames, how)

    def forward(self, clip: Tensor) -> Tensor:
        return self.proj(clip)


class _Tubelets(nn.Conv3d):
    """A convolution whose stride is its kernel, as the one matrix product it is: its outputs need no transposition,
    and on a CPU its backward pass takes a third of the time (32 x 224 x 224, 768 channels)."""

    def __init__(self, conv: nn.Conv2d, frames: int, how: How) -> None:
        kernel, like = (frames, conv.kernel_size[0], conv.kernel_size[1]), conv.weight
        super().__init__(
            conv.in_channels, conv.out_channels, kernel, kernel, bias=conv.bias is not None, device=like.device,
            dtype=like.dtype,
        )  # fmt: skip
        with torch.no_grad():
            self.weight.copy_(inflate_weight(conv.weight, frames, how))
            if self.bias is not None and conv.bias is not None:
                self.bias.copy_(conv.bias)

    def forward(self, clip: Tensor) -> Tensor:
        for axis, side in zip((4, 3, 2), reversed(self.kernel_size), strict=True):
            clip = clip.narrow(axis, 0, clip.shape[axis] // side * side).unflatten(axis, (-1, side))
        pixels = clip.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(2, 3)  # (B, T // t, N, 3 * t * h * w)
        return F.linear(pixels, self.weight.flatten(1), self.bias)
