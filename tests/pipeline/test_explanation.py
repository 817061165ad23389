"""What explanations are worth: taking away what a map marks costs the score more than taking away as much elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tubelet.backbones import Model, create_model, fixed_attention, list_models
from tubelet.pipeline.explanation.maps import ATTENTION, GRAD_CAM, Explainer

MAPS = {"timesformer_tiny": ATTENTION, "vivit_tiny": ATTENTION, "xvit_tiny": ATTENTION}
VIVIT = [{"variant": name} for name in ("joint", "factorised_attention", "factorised_heads")]
OTHERS = [("timesformer_tiny", {"attention": "joint"}), ("timesformer_tiny", {"attention": "space"})]
NETWORKS = [(name, {}) for name in list_models("*_tiny")] + OTHERS + [("vivit_tiny", each) for each in VIVIT]
DELETED = 0.1  # of a clip


@dataclass
class Bars:
    """Clips (N, 3, 8, 48, 48) of a bar that moves over a still texture, its label (N,) 0 lying or 1 standing, and where
    the bar is (N, 8, 48, 48)."""

    clips: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor


def bars(count: int, seed: int) -> Bars:
    rng = np.random.default_rng(seed)
    clips = rng.normal(0, 0.5, (count, 3, 1, 12, 12)).repeat(8, 2).repeat(4, 3).repeat(4, 4).astype(np.float32)
    masks = np.zeros((count, 8, 48, 48), bool)
    for number in range(count):
        sides = (5, 15) if number % 2 == 0 else (15, 5)
        start, speed = rng.uniform(0, 33, 2), rng.uniform(-2, 2, 2)
        for frame in range(8):
            top, left = np.clip(start + speed * frame, 0, (48 - sides[0], 48 - sides[1])).astype(int)
            masks[number, frame, top : top + sides[0], left : left + sides[1]] = True
    clips[np.broadcast_to(masks[:, None], clips.shape)] = 2.0
    return Bars(torch.from_numpy(clips), torch.arange(count) % 2, torch.from_numpy(masks))


def trained(name: str, steps: int, rate: float) -> Model:
    torch.manual_seed(0)
    model = create_model(name, num_classes=2)
    seen = bars(256, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 10) * (1 - step / steps)
        some = torch.arange(16) + 16 * step
        some = some % 256
        optimizer.zero_grad()
        F.cross_entropy(model(seen.clips[some]), seen.labels[some]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.inference_mode()
def score(model: Model, clips: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return model(clips).softmax(-1).gather(1, labels[:, None])[:, 0]


def without(clips: torch.Tensor, marked: torch.Tensor) -> torch.Tensor:
    return clips.masked_fill(marked[:, None], 0.0)


def most_marked(maps: torch.Tensor) -> torch.Tensor:
    """The DELETED share of each clip with the most evidence, (N, T, H, W) bool."""
    flat = maps.flatten(1)
    kept = flat.topk(int(DELETED * flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, kept, True).view_as(maps)


def elsewhere(marked: torch.Tensor, seed: int) -> torch.Tensor:
    """The same shapes, moved to a random place and time in each clip."""
    rng = np.random.default_rng(seed)
    shifts = rng.integers((0, 8, 8), (8, 41, 41), (len(marked), 3)).tolist()
    return torch.stack([torch.roll(one, shift, (0, 1, 2)) for one, shift in zip(marked, shifts, strict=True)])
