"""Position and time embeddings for another grid or clip length than they were made for.

Shapes: pos (1, P + N, C) with P prefix entries (a class token's), N = h * w a square grid; time (1, T, C).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest_grid(pos: Tensor, grid: tuple[int, int], prefix: int = 1) -> Tensor:
    """Nearest neighbour in two dimensions: what TimeSformer's forward does to an input of another size."""
    first, rest = pos[:, :prefix], _as_image(pos[:, prefix:])
    return torch.cat([first, _as_tokens(F.interpolate(rest, size=grid, mode="nearest"))], dim=1)


def bicubic_grid(pos: Tensor, grid: tuple[int, int], prefix: int = 1) -> Tensor:
    """Bicubic with antialiasing, computed in float32: how image ViTs are taken to another size (timm's rule)."""
    first, rest = pos[:, :prefix], _as_image(pos[:, prefix:].float())
    resized = F.interpolate(rest, size=grid, mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([first, _as_tokens(resized).to(pos.dtype)], dim=1)


def nearest_sequence(embed: Tensor, length: int, prefix: int = 0) -> Tensor:
    """Nearest neighbour along the one axis of entries: TimeSformer's rule for time, and its loader's for positions."""
    first, rest = embed[:, :prefix], embed[:, prefix:].transpose(1, 2)
    return torch.cat([first, F.interpolate(rest, size=length, mode="nearest").transpose(1, 2)], dim=1)


def linear_grid(pos: Tensor, made_for: tuple[int, ...], grid: tuple[int, ...], prefix: int = 0) -> Tensor:
    """Linear along each of one, two or three axes, first entry to first and last to last: ViViT's (Scenic's) rule."""
    mode = ("linear", "bilinear", "trilinear")[len(grid) - 1]
    first, rest = pos[:, :prefix], pos[:, prefix:].transpose(1, 2).unflatten(2, made_for)
    exact = rest.float() if rest.dtype in (torch.float16, torch.bfloat16) else rest
    resized = F.interpolate(exact, size=grid, mode=mode, align_corners=True)
    return torch.cat([first, _as_tokens(resized).to(pos.dtype)], dim=1)


def _as_image(tokens: Tensor) -> Tensor:
    side = math.isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise ValueError(
            f"a position embedding of {tokens.shape[1]} patches is not a square grid; it cannot be resized"
        )
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def _as_tokens(image: Tensor) -> Tensor:
    return image.flatten(2).transpose(1, 2)
