"""Shards to batches: worker processes read, decode and crop clips; what they hand over is uint8 and on its way once.

Augmentation beyond the crop, and all that is floating point, happens on the device (pipeline/inputs.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from tubelet.video import (
    VideoError,
    available_backends,
    clip_views,
    crop_resize,
    random_clip,
    random_crop_box,
    segment_clip,
    segment_views,
    spatial_views,
)

from .errors import DataError
from .order import Draw, Position, TrainOrder, sample_rng
from .shards import ShardedSplit

# A batch that takes this long is a decoder that hangs: the run ends with a word instead of standing still.
BATCH_DEADLINE_S = 300
_REPLACEMENTS = 10


@dataclass(frozen=True)
class ClipSettings:
    """What a clip is: `frames` frames, `stride` apart (dense) or one from each of `frames` equal parts (segments),
    `size` pixels square. In training crop_scale and crop_ratio are the area share and aspect ratio of the random
    resized crop (Szegedy et al. 2015, "Going deeper with convolutions", sec. 6)."""

    frames: int
    stride: int
    size: int
    sampling: str = "dense"
    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    decoder: str = "pyav"

    def __post_init__(self) -> None:
        if self.decoder != "pyav" and available_backends().get(self.decoder) is None:
            raise DataError(f"--decoder {self.decoder}: is not installed; `tubelet doctor` says how to get it")


@dataclass(frozen=True)
class TrainBatch:
    """clips (B, T, S, S, 3) uint8; labels (B,) int64, or (B, classes) bool of multi-label data; faults: (key, cause)
    of each bad video that was replaced."""

    clips: torch.Tensor
    labels: torch.Tensor
    faults: list[tuple[str, str]]

    def pin_memory(self) -> TrainBatch:
        return TrainBatch(self.clips.pin_memory(), self.labels.pin_memory(), self.faults)


@dataclass(frozen=True)
class ViewBatch:
    """All test views of B videos: clips (B, V, T, S, S, 3) uint8, V = temporal * spatial with the spatial ones of a
    clip side by side; labels as in TrainBatch; indices (B,) video numbers; seconds (B, V, 2) start and end of each
    view in the file; faults: (video number, key, cause) of each video that could not be read, not in the batch."""

    clips: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    seconds: torch.Tensor
    faults: list[tuple[int, str, str]]

    def pin_memory(self) -> ViewBatch:
        return replace(self, clips=self.clips.pin_memory(), labels=self.labels.pin_memory())


class _TrainClips(Dataset):
    def __init__(self, split: ShardedSplit, settings: ClipSettings, seed: int):
        self.split, self.settings, self.seed = split, settings, seed

    def __getitem__(self, draw: Draw) -> tuple[torch.Tensor, np.ndarray, list[tuple[str, str]]]:
        faults: list[tuple[str, str]] = []
        index = draw.index
        for attempt in range(_REPLACEMENTS):
            rng = sample_rng(self.seed, draw, attempt)
            if attempt:  # the replacement of a bad video follows from its place in the order, never from chance
                index = int(rng.integers(len(self.split)))
            try:
                return self._clip(index, rng), self.split.labels[index], faults
            except VideoError as error:
                faults.append((self.split.key(index), error.cause))
        raise DataError(
            f"{_REPLACEMENTS} videos in a row cannot be read, the last {faults[-1][0]}: {faults[-1][1]}. "
            "Prepare the dataset again"
        )

    def _clip(self, index: int, rng: np.random.Generator) -> torch.Tensor:
        settings = self.settings
        with self.split.open(index, settings.decoder) as reader:
            first, after = self.split.frame_range(index)
            if settings.sampling == "segments":
                wanted = first + segment_clip(after - first, settings.frames, rng)
            else:
                wanted = first + random_clip(after - first, settings.frames, settings.stride, rng)
            box = random_crop_box(reader.info.height, reader.info.width, settings.crop_scale, settings.crop_ratio, rng)
            return crop_resize(reader.frames(wanted), box, settings.size)


class _ViewClips(Dataset):
    def __init__(self, split: ShardedSplit, settings: ClipSettings, temporal: int, spatial: int):
        self.split, self.settings, self.temporal, self.spatial = split, settings, temporal, spatial

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, np.ndarray] | tuple[int, str, str]:
        try:
            return (index, *self._views(index))
        except VideoError as error:
            return index, self.split.key(index), error.cause

    def _views(self, index: int) -> tuple[torch.Tensor, np.ndarray]:
        settings = self.settings
        with self.split.open(index, settings.decoder) as reader:
            first, after = self.split.frame_range(index)
            if settings.sampling == "segments":
                wanted = first + segment_views(after - first, settings.frames, self.temporal)
            else:
                wanted = first + clip_views(after - first, settings.frames, settings.stride, self.temporal)
            frames = reader.frames(wanted.reshape(-1))  # the views of a video come from one decode
            times = reader.times()
        # (spatial, temporal * T, S, S, 3) -> (temporal * spatial, T, S, S, 3)
        crops = spatial_views(frames, settings.size, self.spatial).unflatten(1, wanted.shape)
        seconds = np.stack([times[wanted[:, 0]], times[wanted[:, -1]] + 1 / reader.info.rate], axis=1)
        return crops.transpose(0, 1).flatten(0, 1), np.repeat(seconds, self.spatial, axis=0)


def _collate_train(samples: Sequence[tuple[torch.Tensor, np.ndarray, list]]) -> TrainBatch:
    clips, labels, faults = zip(*samples, strict=True)
    every = [fault for some in faults for fault in some]
    # default_collate stacks straight into the shared memory that a batch leaves its worker in.
    return TrainBatch(default_collate(clips), torch.from_numpy(np.stack(labels)), every)


class _CollateViews:
    def __init__(self, labels: np.ndarray):
        self.labels = labels

    def __call__(self, samples: Sequence[tuple]) -> ViewBatch:
        good = [sample for sample in samples if isinstance(sample[1], torch.Tensor)]
        faults = [sample for sample in samples if not isinstance(sample[1], torch.Tensor)]
        indices = torch.tensor([index for index, _, _ in good], dtype=torch.int64)
        clips = default_collate([clips for _, clips, _ in good]) if good else torch.empty(0, dtype=torch.uint8)
        seconds = torch.from_numpy(np.array([seconds for _, _, seconds in good]))
        return ViewBatch(clips, torch.from_numpy(self.labels[indices.numpy()]), indices, seconds, faults)


class _Endless:
    """A batch sampler over a generator of micro-batches: DataLoader wants something it can iterate afresh."""

    def __init__(self, order: TrainOrder, start: Position, rank: int):
        self.order, self.start, self.rank = order, start, rank

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.order.draws(self.start, self.rank)


def train_batches(
    split: ShardedSplit, settings: ClipSettings, order: TrainOrder, start: Position, rank: int, workers: int
) -> Iterator[TrainBatch]:
    """The micro-batches of `rank` from `start` on, without end: one stream over all epochs, so that no worker stands
    idle between two of them. `workers` processes decode; 0 decodes in this process."""
    data = _TrainClips(split, settings, order.seed)
    return iter(_loader(data, _Endless(order, start, rank), _collate_train, workers))


def view_batches(
    split: ShardedSplit,
    settings: ClipSettings,
    views: tuple[int, int],
    indices: Sequence[int],
    videos_per_batch: int,
    workers: int,
) -> Iterator[ViewBatch]:
    """The test views (temporal, spatial) of the videos `indices`, in their order, each video exactly once."""
    chunks = [indices[i : i + videos_per_batch] for i in range(0, len(indices), videos_per_batch)]
    data = _ViewClips(split, settings, *views)
    return iter(_loader(data, chunks, _CollateViews(split.labels), min(workers, len(chunks))))


def _loader(data: Dataset, batches: Iterable, collate, workers: int) -> DataLoader:
    return DataLoader(
        data,
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable of batches will do
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        timeout=BATCH_DEADLINE_S if workers else 0,
        prefetch_factor=4 if workers else None,
        # Readers are opened after the fork and torch runs on one thread in a worker, which makes a fork safe here.
        multiprocessing_context="fork" if workers else None,
    )
