"""Random changes of training clips: RandAugment, colour jitter and greyscale on uint8, erasing on what is normalised.

Clips are uint8 (T, H, W, 3) of any strides, on any device. All frames of a clip are changed alike; contrast,
autocontrast and equalize take the statistics of each frame, as the published recipes do. Random numbers come from a
NumPy generator on the CPU, so that nothing waits for the device. Results are Pillow's, whose operations the recipes
were made with; where torchvision's differ, wait for the device, or take longer, the operation is written out here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from .transforms import Box, random_crop_box

Color = tuple[int, int, int]
Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]

_ERASING_RATIO = (0.3, 1 / 0.3)
_SECTION = re.compile(r"(m|n|p|mstd|inc)(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class RandAugment:
    """Cubuk et al. 2020, "RandAugment", as the recipes of MViT, UniFormer and Video Swin use it: `n` operations drawn
    from 15, each applied with probability `p` at a magnitude of mean `m` and standard deviation `mstd`, within 0 to 10.
    All operations get stronger with the magnitude ("inc1" in timm's notation). Geometry is bilinear, where timm draws
    bilinear or bicubic."""

    m: float = 9.0
    n: int = 2
    mstd: float = 0.0
    p: float = 0.5

    @classmethod
    def parse(cls, text: str) -> RandAugment:
        """Of timm's notation, such as "m7-n4-mstd0.5-inc1". Errors: ValueError for another."""
        sections = text.removeprefix("rand-").split("-")
        matches = [_SECTION.fullmatch(section) for section in sections]
        found = {match[1]: float(match[2]) for match in matches if match}
        if len(found) < len(sections) or found.pop("inc", None) != 1:
            raise ValueError(
                "write RandAugment as m7-n4-mstd0.5-inc1: magnitude, operations, deviation of the magnitude, and if "
                "you like p0.5, the probability of each; inc1 is a must: here all get stronger with the magnitude"
            )
        values = {field.name: found[field.name] for field in fields(cls) if field.name in found}
        if max(values.get("m", 0), values.get("mstd", 0)) > 10 or values.get("p", 0) > 1 or values.get("n", 1) % 1:
            raise ValueError("RandAugment takes m and mstd of 0 to 10, a whole n, and p of 0 to 1")
        return cls(**{**values, "n": int(values.get("n", cls.n))})  # type: ignore[arg-type]

    def __call__(self, clip: Tensor, fill: Color, rng: np.random.Generator) -> Tensor:
        """uint8 (T, H, W, 3) -> the same. fill: colour of what a geometric operation brings in from outside."""
        for index in rng.integers(len(_OPERATIONS), size=self.n):
            if rng.uniform() < self.p:
                level = min(10.0, max(0.0, rng.normal(self.m, self.mstd))) / 10
                clip = _OPERATIONS[index](clip, level if rng.uniform() < 0.5 else -level, fill)
        return clip


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation times a factor drawn from 1 - x to 1 + x, hue turned by -x to x of its
    circle, in random order; 0 leaves out."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        strengths = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in rng.permutation([name for name, strength in strengths.items() if strength]):
            strength = strengths[name]
            if name == "hue":
                clip = adjust_hue(clip, rng.uniform(-strength, strength))
            else:
                clip = _ADJUST[name](clip, rng.uniform(max(0.0, 1 - strength), 1 + strength))
        return clip


@dataclass(frozen=True)
class Augmentation:
    """What happens to a clip before it is normalised, in this order. gray: the probability of greyscale."""

    rand_augment: RandAugment | None = None
    color_jitter: ColorJitter = ColorJitter()
    gray: float = 0.0
    fill: Color = (128, 128, 128)

    def __call__(self, clips: Tensor, mirrored: Sequence[bool], rng: np.random.Generator) -> Tensor:
        """uint8 (B, T, H, W, 3) -> the same, the clips `mirrored` (B,) left to right first; a new tensor, or `clips`
        themselves where nothing is to be done."""
        idle = self.rand_augment is None and self.color_jitter == ColorJitter() and not self.gray
        if idle and not any(mirrored):
            return clips
        done = []
        for clip, mirror in zip(clips, mirrored, strict=True):
            clip = clip.flip(2) if mirror else clip
            if not idle:
                # Each channel by itself in memory, which makes some operations up to three times as fast.
                clip = _channels_last(_channels_first(clip).contiguous())
            if self.rand_augment is not None:
                clip = self.rand_augment(clip, self.fill, rng)
            clip = self.color_jitter(clip, rng)
            if self.gray and rng.uniform() < self.gray:
                clip = grayscale(clip)
            done.append(clip)
        return torch.stack(done)


@dataclass(frozen=True)
class Erasing:
    """Zhong et al. 2020, "Random Erasing Data Augmentation", of the same boxes in all frames (as MViT and UniFormer):
    with `probability` a clip loses `count` boxes, each of a share of its frames drawn from `area` / count, to normal
    noise (pixel) or to the mean colour (const)."""

    probability: float = 0.0
    mode: Literal["pixel", "const"] = "pixel"
    count: int = 1
    area: tuple[float, float] = (0.02, 1 / 3)

    def boxes(self, height: int, width: int, rng: np.random.Generator) -> list[Box]:
        """The boxes of one clip; none of most."""
        if rng.uniform() >= self.probability:
            return []
        share = (self.area[0] / self.count, self.area[1] / self.count)
        return [random_crop_box(height, width, share, _ERASING_RATIO, rng) for _ in range(self.count)]

    def __call__(self, clips: Tensor, rng: np.random.Generator) -> Tensor:
        """Normalised (B, 3, T, H, W), changed in place and returned. Noise is drawn on the device."""
        if not self.probability:
            return clips
        noise = torch.Generator(clips.device).manual_seed(int(rng.integers(2**63)))
        for clip in clips:
            for top, left, height, width in self.boxes(clip.shape[-2], clip.shape[-1], rng):
                hole = clip[..., top : top + height, left : left + width]
                if self.mode == "pixel":  # 8 times as fast as hole.normal_() on a CPU, which goes value by value
                    hole.copy_(torch.randn(hole.shape, generator=noise, device=hole.device, dtype=hole.dtype))
                else:
                    hole.zero_()
        return clips


def grayscale(clip: Tensor) -> Tensor:
    """ITU-R 601 luma in all three channels."""
    return _luma(clip).to(torch.uint8).unsqueeze(-1).expand(clip.shape)


def adjust_brightness(clip: Tensor, factor: float) -> Tensor:
    return clip.mul(factor).clamp_(0, 255).to(torch.uint8)


def adjust_contrast(clip: Tensor, factor: float) -> Tensor:
    """Away from, or towards, the mean luma of each frame."""
    return _blend(_luma(clip).mean((1, 2)).add_(0.5).floor_().view(-1, 1, 1, 1), clip, factor)


def adjust_saturation(clip: Tensor, factor: float) -> Tensor:
    """Away from, or towards, greyscale."""
    return _blend(_luma(clip).unsqueeze(-1), clip, factor)


def adjust_sharpness(clip: Tensor, factor: float) -> Tensor:
    """Away from, or towards, each pixel's neighbourhood of 3 x 3, in which it counts five times; borders stay."""
    if min(clip.shape[1:3]) < 3:
        return clip
    result = clip.to(torch.float32)
    inner = result[:, 1:-1, 1:-1]
    rows = (result[:, :-2] + result[:, 1:-1]).add_(result[:, 2:])
    smooth = (rows[:, :, :-2] + rows[:, :, 1:-1]).add_(rows[:, :, 2:]).add_(inner, alpha=4).div_(13).round_()
    inner.sub_(smooth).mul_(factor).add_(smooth).clamp_(0, 255)
    return result.to(torch.uint8)


def adjust_hue(clip: Tensor, turn: float) -> Tensor:
    """Turned by a share of the circle, -0.5 to 0.5."""
    # Here and below inside the function: importing torchvision takes as long as torch, and only training needs it.
    from torchvision.transforms.v2.functional import adjust_hue

    return _channels_last(adjust_hue(_channels_first(clip), turn))


def equalize(clip: Tensor) -> Tensor:
    """Each channel of each frame to an even histogram."""
    from torchvision.transforms.v2.functional import equalize

    return _channels_last(equalize(_channels_first(clip)))


def autocontrast(clip: Tensor) -> Tensor:
    """Each channel of each frame to the whole range."""
    low, high = clip.amin((1, 2), keepdim=True), clip.amax((1, 2), keepdim=True)
    flat = low == high
    reach = (high - low).masked_fill(flat, 255).to(torch.float32)
    return (clip - low.masked_fill(flat, 0)).mul(255.0).div_(reach).to(torch.uint8)


def posterize(clip: Tensor, bits: int) -> Tensor:
    """The `bits` highest bits of 8."""
    return clip & (256 - (1 << (8 - bits)))


def solarize(clip: Tensor, threshold: int) -> Tensor:
    """Inverted from `threshold`, 0 to 256, on."""
    return clip if threshold > 255 else clip ^ -(clip >= threshold).view(torch.uint8)  # -1 is all bits


def solarize_add(clip: Tensor, addition: int) -> Tensor:
    """Below 128 lighter by `addition`, at most 127."""
    return clip + (clip < 128).view(torch.uint8) * addition


def rotate(clip: Tensor, degrees: float, fill: Color) -> Tensor:
    """Anticlockwise around the centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return warp(clip, ((cos, -sin, 0), (sin, cos, 0)), fill)


def shear_x(clip: Tensor, slope: float, fill: Color) -> Tensor:
    """The top row stays, each lower one goes left by `slope` pixels more."""
    return warp(clip, ((1, slope, slope * clip.shape[1] / 2), (0, 1, 0)), fill)


def shear_y(clip: Tensor, slope: float, fill: Color) -> Tensor:
    """The left column stays, each further one goes up by `slope` pixels more."""
    return warp(clip, ((1, 0, 0), (slope, 1, slope * clip.shape[2] / 2)), fill)


def warp(clip: Tensor, matrix: Matrix, fill: Color) -> Tensor:
    """Bilinear; `matrix` (2, 3) leads from a place of the result to the one it shows, in pixels (x, y) from the
    centre."""
    height, width = clip.shape[1:3]
    (a, b, c), (d, e, f) = matrix
    shares = ((a, b * height / width, 2 * c / width), (d * width / height, e, 2 * f / height))
    theta = torch.tensor([shares], dtype=torch.float32).to(clip.device, non_blocking=True)
    grid = affine_grid(theta, [1, 1, height, width], align_corners=False)
    outside = _on_device(fill, clip.device).view(3, 1, 1)
    # What lies outside counts as zero, hence the difference to `fill`.
    shifted = _channels_first(clip).to(torch.float32).sub_(outside)
    moved = grid_sample(shifted, grid.expand(len(clip), -1, -1, -1), align_corners=False)
    return _channels_last(moved.add_(outside).round_().to(torch.uint8))


def _luma(clip: Tensor) -> Tensor:
    """(T, H, W) whole numbers as float32. All sums stay below 2 ** 24, so they are exact."""
    red, green, blue = clip.unbind(-1)
    return red.mul(19595.0).add_(green, alpha=38470).add_(blue, alpha=7471).add_(32768).div_(65536).floor_()


def _blend(origin: Tensor, clip: Tensor, factor: float) -> Tensor:
    """origin + factor * (clip - origin), cut to uint8."""
    return (clip - origin).mul_(factor).add_(origin).clamp_(0, 255).to(torch.uint8)


def _channels_first(clip: Tensor) -> Tensor:
    return clip.permute(0, 3, 1, 2)


def _channels_last(clip: Tensor) -> Tensor:
    return clip.permute(0, 2, 3, 1)


@lru_cache(maxsize=16)
def _on_device(color: Color, device: torch.device) -> Tensor:
    return torch.tensor(color, dtype=torch.float32, device=device)  # kept: a copy to the device waits for it


def _factor(level: float) -> float:
    return max(0.1, 1 + 0.9 * level)


_ADJUST = {"brightness": adjust_brightness, "contrast": adjust_contrast, "saturation": adjust_saturation}
# Of (clip, level, fill), the level from -1 to 1 of either sign alike. Strengths and their ranges are timm's.
_OPERATIONS: tuple[Callable[[Tensor, float, Color], Tensor], ...] = (
    lambda clip, level, fill: autocontrast(clip),
    lambda clip, level, fill: equalize(clip),
    lambda clip, level, fill: clip.bitwise_not(),
    lambda clip, level, fill: rotate(clip, 30 * level, fill),
    lambda clip, level, fill: posterize(clip, 4 - int(4 * abs(level))),
    lambda clip, level, fill: solarize(clip, 256 - int(256 * abs(level))),
    lambda clip, level, fill: solarize_add(clip, int(110 * abs(level))),
    lambda clip, level, fill: adjust_saturation(clip, _factor(level)),
    lambda clip, level, fill: adjust_contrast(clip, _factor(level)),
    lambda clip, level, fill: adjust_brightness(clip, _factor(level)),
    lambda clip, level, fill: adjust_sharpness(clip, _factor(level)),
    lambda clip, level, fill: shear_x(clip, 0.3 * level, fill),
    lambda clip, level, fill: shear_y(clip, 0.3 * level, fill),
    lambda clip, level, fill: warp(clip, ((1, 0, 0.45 * level * clip.shape[2]), (0, 1, 0)), fill),
    lambda clip, level, fill: warp(clip, ((1, 0, 0), (0, 1, 0.45 * level * clip.shape[1])), fill),
)
