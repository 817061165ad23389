"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of clips and their targets: each clip with its counterpart
from the other end of the batch, in all frames alike."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tubelet.video import Box

from ..config import AugmentConfig


def mix(
    clips: Tensor, labels: Tensor, classes: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """clips (B, 3, T, H, W) floating point; labels (B,) int64 or (B, classes) bool. Returns the mixed clips and their
    targets (B, classes) float32: the share that each label has of the pixels."""
    count, height, width = len(clips), *clips.shape[-2:]
    draws = count if config.mix_per == "sample" else 1
    drawn = [_draw(config, height, width, rng) for _ in range(draws)] * (count // draws)
    shares, boxes = zip(*drawn, strict=True)
    # A pasted box says itself how much of the clip stays: such a clip is not blended.
    blend = _column([share if box is None else 1.0 for share, box in drawn], clips)
    mixed = torch.lerp(clips.flip(0), clips, blend.view(-1, 1, 1, 1, 1))
    for clip, other, box in zip(mixed, reversed(clips.unbind()), boxes, strict=True):
        if box is not None:
            top, left, tall, wide = box
            clip[..., top : top + tall, left : left + wide] = other[..., top : top + tall, left : left + wide]
    targets = one_hot(labels, classes).float() if labels.ndim == 1 else labels.float()
    share = _column(shares, targets).view(-1, 1)
    return mixed, share * targets + (1 - share) * targets.flip(0)


def _draw(config: AugmentConfig, height: int, width: int, rng: np.random.Generator) -> tuple[float, Box | None]:
    """The share that a clip keeps of itself, and the box that it gets from the other where it is CutMix."""
    if rng.uniform() >= config.mix_prob:
        return 1.0, None
    if config.cutmix and (not config.mixup or rng.uniform() < config.mix_switch):
        box = _cutmix_box(height, width, rng.beta(config.cutmix, config.cutmix), rng)
        return 1 - box[2] * box[3] / (height * width), box
    return rng.beta(config.mixup, config.mixup), None


def _cutmix_box(height: int, width: int, share: float, rng: np.random.Generator) -> Box:
    """(top, left, height, width) of 1 - share of the frame around a place in it, less what is outside (sec. 3.1)."""
    tall, wide = int(height * math.sqrt(1 - share)), int(width * math.sqrt(1 - share))
    top, left = int(rng.integers(height)) - tall // 2, int(rng.integers(width)) - wide // 2
    bottom, right = min(height, top + tall), min(width, left + wide)
    top, left = max(0, top), max(0, left)
    return top, left, bottom - top, right - left


def _column(values: list[float] | tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)
