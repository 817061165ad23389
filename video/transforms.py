"""From decoded frames to what a model eats.

On the CPU a clip stays uint8 (T, H, W, 3), and a crop is a view that is resized alone. On the device whole batches turn
float in one pass. `(B, T, H, W, 3)` in memory is `(B, 3, T, H, W)` channels-last, so no permutation copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import interpolate

Box = tuple[int, int, int, int]


def random_crop_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """(top, left, height, width) of an Inception-style crop (Szegedy et al. 2015), as torchvision's RandomResizedCrop.

    scale: the least and greatest share of the area. ratio: of width to height, drawn log-uniformly. After ten draws
    that do not fit, the largest centred box within `ratio`. Errors: ValueError for a range that is not one.
    """
    if not 0 < scale[0] <= scale[1] or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"scale {scale} and ratio {ratio} must be (least, greatest), above 0")
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_height, box_width = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < box_height <= height and 0 < box_width <= width:
            top, left = rng.integers(0, height - box_height + 1), rng.integers(0, width - box_width + 1)
            return int(top), int(left), box_height, box_width
    box_height = min(height, max(1, round(width / ratio[0])))
    box_width = min(width, max(1, round(height * ratio[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def jitter_crop_box(height: int, width: int, jitter: tuple[float, float], rng: np.random.Generator) -> Box:
    """(top, left, height, width) of a square anywhere in the frame, to which the short side is `jitter` times its own,
    drawn uniformly between two numbers: scaled, a crop out of a frame of random size, as Non-local networks (Wang et
    al. 2018) and SlowFast train. Their crop of 224 pixels, short side 256 to 320, is (256 / 224, 320 / 224).

    Errors: ValueError for a range that is not one, or begins below 1.
    """
    if not 1 <= jitter[0] <= jitter[1]:
        raise ValueError(f"jitter {jitter} must be (least, greatest), 1 or more")
    side = max(1, round(min(height, width) / rng.uniform(*jitter)))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    return int(top), int(left), side, side


def check_box(box: Box, frame_height: int, frame_width: int) -> None:
    """Errors: ValueError for a box that is empty or not inside the frame."""
    top, left, height, width = box
    if min(top, left) < 0 or min(height, width) < 1 or top + height > frame_height or left + width > frame_width:
        raise ValueError(f"the box {tuple(box)} is not inside frames of {frame_height} x {frame_width}")


def crop_resize(clip: torch.Tensor, box: Box, size: int) -> torch.Tensor:
    """Cuts `box` (top, left, height, width) out of uint8 (T, H, W, 3) and resizes it to (T, size, size, 3), contiguous.

    Bilinear with antialiasing, in uint8 throughout. Errors: ValueError for a box that is not inside the frame.
    """
    check_box(box, clip.shape[1], clip.shape[2])
    top, left, height, width = box
    cut = clip[:, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return cut.contiguous()
    # Seen as (T, 3, H, W) the clip is channels-last, for which PyTorch has a uint8 kernel, 14 times as fast as float.
    resized = interpolate(cut.permute(0, 3, 1, 2), (size, size), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous()


def spatial_boxes(height: int, width: int, views: int) -> list[Box]:
    """The squares (top, left, height, width) of test views, with the frame's short side for their own.

    1 view is the centre; 3 are left, centre and right, or top, centre and bottom of an upright video. Errors:
    ValueError for another number of views.
    """
    if views not in (1, 3):
        raise ValueError(f"spatial views must be 1 (the centre) or 3 (both ends and the centre), not {views}")
    short, room = min(height, width), abs(height - width)
    places = (room // 2,) if views == 1 else (0, room // 2, room)
    return [(place, 0, short, short) if height > width else (0, place, short, short) for place in places]


def normalize(
    clips: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Batches of uint8 (B, T, H, W, 3) as (pixel / 255 - mean) / std, of shape (B, 3, T, H, W).

    One multiply-add in float32, rounded once to `dtype`. The result is a permuted view of channels-last memory.
    """
    scale, shift = scale_and_shift(tuple(mean), tuple(std), clips.device)
    floats = torch.addcmul(shift, clips, scale, out=torch.empty(clips.shape, dtype=dtype, device=clips.device))
    return floats.permute(0, 4, 1, 2, 3)


@lru_cache(maxsize=16)
def scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `normalize` multiplies pixels with, then adds: each (3,) float32. Kept, so not to be changed."""
    # Kept: making them anew for each batch would wait for a copy to the device.
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale, shift
