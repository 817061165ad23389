"""From a batch of uint8 clips to what a model takes: moved, made floating point and normalised on the device."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist

from tubelet.backbones import ClipSpec
from tubelet.datasets import TrainBatch
from tubelet.video import flip, normalize

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ClipInput:
    """clip: mean and std that the model wants; precision: of the arithmetic that follows."""

    def __init__(self, clip: ClipSpec, device: torch.device, precision: str):
        self.clip = clip
        self.device = device
        # Under bf16 autocast the parameters are fp32, and so is what comes in; DeepSpeed's fp16 casts the parameters.
        self.dtype = torch.float16 if precision == "fp16" else torch.float32
        if precision == "bf16" and lacks_bf16(device) and not (dist.is_initialized() and dist.get_rank()):
            print("this CPU has no bf16 instructions: leave --precision out, fp32 is many times faster here",
                  file=sys.stderr)  # fmt: skip

    def train(self, batch: TrainBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """clips (B, 3, T, S, S), mirrored where the batch says so, and labels (B,), on the device."""
        clips = self.views(batch.clips)
        clips = flip(clips, batch.mirrored.to(self.device, non_blocking=True))
        return clips, batch.labels.to(self.device, non_blocking=True)

    def views(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 (..., T, S, S, 3) -> (N, 3, T, S, S) on the device, leading axes as one."""
        clips = clips.flatten(0, -5).to(self.device, non_blocking=True)
        return normalize(clips, self.clip.mean, self.clip.std, self.dtype)

    def pictures(self, clips: torch.Tensor) -> torch.Tensor:
        """What the model sees, to look at: (N, 3, T, S, S) as it goes in -> uint8 (N, T, S, S, 3) on the CPU."""
        mean, std = (torch.tensor(values, device=clips.device) for values in (self.clip.mean, self.clip.std))
        clips = clips.movedim(1, -1).float() * std + mean
        return (clips * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def lacks_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed without instructions for it: its products took 200 times as long as fp32's on a CPU
    with no more than AVX2."""
    return device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Mixed precision for inference; DeepSpeed brings its own for training."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])
