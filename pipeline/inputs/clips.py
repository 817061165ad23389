"""From a batch of uint8 clips to what a model takes: moved to the device, augmented and normalised."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.distributed as dist

from tubelet.backbones import ClipSpec
from tubelet.datasets import TrainBatch
from tubelet.video import Augmentation, ColorJitter, Erasing, RandAugment, normalize

from ..config import AugmentConfig
from .mirroring import Mirroring
from .mixing import mix

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

    def views(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 (..., T, S, S, 3) -> (N, 3, T, S, S) on the device, leading axes as one."""
        return self._normalized(clips.flatten(0, -5).to(self.device, non_blocking=True))

    def _normalized(self, clips: torch.Tensor) -> torch.Tensor:
        return normalize(clips, self.clip.mean, self.clip.std, self.dtype)

    def pictures(self, clips: torch.Tensor) -> torch.Tensor:
        """What the model sees, to look at: (N, 3, T, S, S) as it goes in -> uint8 (N, T, S, S, 3) on the CPU."""
        mean, std = (torch.tensor(values, device=clips.device) for values in (self.clip.mean, self.clip.std))
        clips = clips.movedim(1, -1).float() * std + mean
        return (clips * 255).round().clamp(0, 255).to(torch.uint8).cpu()


class TrainInput(ClipInput):
    """Of training, with its augmentation. mirroring: of the dataset's classes."""

    def __init__(
        self, clip: ClipSpec, device: torch.device, precision: str, config: AugmentConfig, mirroring: Mirroring
    ):
        super().__init__(clip, device, precision)
        self.config = config
        self.mirroring = mirroring
        self.augmentation = Augmentation(
            None if config.rand_augment is None else RandAugment.parse(config.rand_augment),
            ColorJitter(*config.color_jitter),
            config.gray,
            tuple(round(255 * value) for value in clip.mean),  # type: ignore[arg-type]  # three
        )
        self.erasing = Erasing(config.erasing, config.erasing_mode, config.erasing_count, config.erasing_area)

    def train(self, batch: TrainBatch, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """clips (B, 3, T, S, S) and targets on the device: labels (B,), or (B, classes) where clips are mixed or have
        several labels. A pure function of the batch and `rng`."""
        mirrored, labels = self.mirroring.draw(batch.labels, self.config.flip, rng)
        labels = labels.to(self.device, non_blocking=True)
        clips = self.augmentation(batch.clips.to(self.device, non_blocking=True), mirrored, rng)
        clips = drop_frames(self.erasing(self._normalized(clips), rng), self.config.drop_frames, rng)
        if self.config.mixup or self.config.cutmix:
            return mix(clips, labels, len(self.mirroring.classes), self.config, rng)
        return clips, labels


def drop_frames(clips: torch.Tensor, share: float, rng: np.random.Generator) -> torch.Tensor:
    """clips (B, 3, T, H, W): each frame but the first is, with probability `share`, replaced by the last one kept."""
    if not share:
        return clips
    count, frames = clips.shape[0], clips.shape[2]
    kept = rng.random((count, frames)) >= share
    kept[:, 0] = True
    source = np.maximum.accumulate(np.where(kept, np.arange(frames), 0), axis=1)
    index = torch.from_numpy(source).to(clips.device)
    return clips.gather(2, index.view(count, 1, frames, 1, 1).expand_as(clips))


def lacks_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed without instructions for it: its products took 200 times as long as fp32's on a CPU
    with no more than AVX2."""
    return device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Mixed precision for inference; DeepSpeed brings its own for training."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])
