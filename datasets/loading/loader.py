"""Shards to batches: worker processes read, decode and crop clips; what they hand over is uint8 and on its way once.

Augmentation beyond the crop, and all that is floating point, happens on the device (pipeline/inputs.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from tubelet.video import (
    VideoReader,
    available_backends,
    clip_views,
    jitter_crop_box,
    random_clip,
    random_crop_box,
    segment_clip,
    segment_views,
    spatial_boxes,
)

from ..errors import DataError
from ..shards.split import ShardedSplit
from .jobs import Job, Outcome, Trial
from .order import Draw, Position, TrainOrder, sample_rng
from .workers import Batches, batches_made

BadSamples = Literal["replace", "skip", "stop"]
# The cause of a fault that was not met again: the video is not tried any more.
QUARANTINED = "quarantined"
_ATTEMPTS = 10


@dataclass(frozen=True)
class ClipSettings:
    """What a clip is: `frames` frames, `stride` apart (dense) or one from each of `frames` equal parts (segments),
    `size` pixels square. decoder: which library decodes; deadline: seconds that a worker has for a clip.

    In training: crop_scale and crop_ratio are the area share and aspect ratio of the random resized crop (Szegedy et
    al. 2015, "Going deeper with convolutions", sec. 6), or, where `crop` is "jitter", crop_jitter is the short side of
    the frame in sides of the crop (SlowFast, Feichtenhofer et al. 2019, sec. 4); repeats crops of each clip, side by
    side in the batch, come from one decode ("Augment your batch", Hoffer et al. 2020)."""

    frames: int
    stride: int
    size: int
    sampling: str = "dense"
    crop: str = "resized"
    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_jitter: tuple[float, float] = (256 / 224, 320 / 224)
    repeats: int = 1
    decoder: str = "pyav"
    deadline: float = 30.0

    def __post_init__(self) -> None:
        if self.decoder != "pyav" and available_backends().get(self.decoder) is None:
            raise DataError(f"--decoder {self.decoder}: is not installed; `tubelet doctor` says how to get it")


@dataclass(frozen=True)
class TrainBatch:
    """clips (B, T, S, S, 3) uint8; labels (B,) int64, or (B, classes) bool of multi-label data; faults: (key, cause)
    of each bad video that was replaced or left out; slow: why, of each video that was decoded in a slower way."""

    clips: torch.Tensor
    labels: torch.Tensor
    faults: list[tuple[str, str]]
    slow: list[str]

    def pin_memory(self) -> TrainBatch:
        return replace(self, clips=self.clips.pin_memory(), labels=self.labels.pin_memory())


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


class _TrainJob(Job):
    """Draws to clips. What is tried after a fault follows from (seed, epoch, position), never from chance or time."""

    def __init__(self, split: ShardedSplit, settings: ClipSettings, seed: int, bad_samples: BadSamples):
        self.split, self.settings, self.seed, self.bad_samples = split, settings, seed, bad_samples
        self.deadline = settings.deadline
        self.barred: dict[int, int] = {}  # video -> the epoch from which on it counts as failed without a try

    def first(self, item: Draw, place: int) -> Trial:
        return self._unless_barred(Trial(item, place, item.index))

    def after(self, trial: Trial, cause: str) -> Trial:
        assert trial.index is not None
        faults = (*trial.faults, (self.split.key(trial.index), cause))
        attempt = trial.attempt + 1
        known = cause == QUARANTINED
        # The first of a batch is replaced in any case, so that no batch is left empty.
        gives_up = (self.bad_samples == "stop" and not known) or (self.bad_samples == "skip" and trial.place > 0)
        index = None
        if not gives_up and attempt < _ATTEMPTS:
            index = self._replacement(sample_rng(self.seed, trial.item, attempt))
        return self._unless_barred(replace(trial, index=index, attempt=attempt, faults=faults))

    def learn(self, news: dict[int, int]) -> None:
        self.barred = news | self.barred

    def fetch(self, trial: Trial) -> None:
        assert trial.index is not None
        self.split.span(trial.index)

    def load(self, trial: Trial, out: torch.Tensor) -> str | None:
        """Clips (repeats, T, S, S, 3); returns why they were decoded in a slower way, where they were."""
        assert trial.index is not None
        settings = self.settings
        rng = sample_rng(self.seed, trial.item, trial.attempt)
        if trial.attempt:
            self._replacement(rng)  # its first number chose the video
        with self.split.open(trial.index, settings.decoder) as reader:
            first, after = self.split.frame_range(trial.index)
            if settings.sampling == "segments":
                wanted = first + segment_clip(after - first, settings.frames, rng)
            else:
                wanted = first + random_clip(after - first, settings.frames, settings.stride, rng)
            boxes = [self._box(reader, rng) for _ in range(settings.repeats)]
            reader.crops(wanted, boxes, settings.size, out=out)
            return reader.fallback

    def _box(self, reader: VideoReader, rng: np.random.Generator) -> tuple[int, int, int, int]:
        height, width, settings = reader.info.height, reader.info.width, self.settings
        if settings.crop == "jitter":
            return jitter_crop_box(height, width, settings.crop_jitter, rng)
        return random_crop_box(height, width, settings.crop_scale, settings.crop_ratio, rng)

    def _replacement(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.split)))

    def _unless_barred(self, trial: Trial) -> Trial:
        if trial.index is not None and self.barred.get(trial.index, trial.item.epoch + 1) <= trial.item.epoch:
            return self.after(trial, QUARANTINED)
        return trial


class _ViewJob(Job):
    """Video numbers to their test views; one that cannot be read is not replaced."""

    def __init__(self, split: ShardedSplit, settings: ClipSettings, temporal: int, spatial: int):
        self.split, self.settings, self.temporal, self.spatial = split, settings, temporal, spatial
        self.deadline = settings.deadline * temporal

    def first(self, item: int, place: int) -> Trial:
        return Trial(item, place, item)

    def after(self, trial: Trial, cause: str) -> Trial:
        return replace(trial, index=None, faults=((self.split.key(trial.item), cause),))

    def fetch(self, trial: Trial) -> None:
        self.split.span(trial.item)

    def load(self, trial: Trial, out: torch.Tensor) -> np.ndarray:
        """Views (V, T, S, S, 3); returns the seconds (V, 2) of each."""
        settings, index = self.settings, trial.item
        with self.split.open(index, settings.decoder) as reader:
            first, after = self.split.frame_range(index)
            if settings.sampling == "segments":
                wanted = first + segment_views(after - first, settings.frames, self.temporal)
            else:
                wanted = first + clip_views(after - first, settings.frames, settings.stride, self.temporal)
            boxes = spatial_boxes(reader.info.height, reader.info.width, self.spatial)
            crops = reader.crops(wanted.reshape(-1), boxes, settings.size)  # the views of a video come from one decode
            times = reader.times()
        # (spatial, temporal * T, S, S, 3) -> (temporal * spatial, T, S, S, 3)
        out.unflatten(0, (self.temporal, self.spatial)).copy_(crops.unflatten(1, wanted.shape).transpose(0, 1))
        seconds = np.stack([times[wanted[:, 0]], times[wanted[:, -1]] + 1 / reader.info.rate], axis=1)
        return np.repeat(seconds, self.spatial, axis=0)


class _Paced(Iterator["list[Draw] | None"]):
    """The micro-batches of a run, None for one whose epoch must wait until the epoch before the last is over: what is
    learnt of an epoch holds from the second one after it on, however far the workers read ahead."""

    def __init__(self, draws: Iterator[list[Draw]]):
        self._draws = draws
        self._next = next(draws)
        self._epoch = self._next[0].epoch  # of the batch that was handed out last
        self._ahead: deque[int] = deque()  # epochs of the batches that the workers have been sent

    def __next__(self) -> list[Draw] | None:
        batch = self._next
        if batch[0].epoch > self._epoch + 1:
            return None
        self._next = next(self._draws)
        self._ahead.append(batch[0].epoch)
        return batch

    def hand_out(self) -> None:
        self._epoch = self._ahead.popleft()


class TrainBatches(Iterator[TrainBatch]):
    """The micro-batches of a rank, without end: one stream over all epochs, so that no worker stands idle between two
    of them. Close it when enough have come."""

    def __init__(
        self,
        split: ShardedSplit,
        settings: ClipSettings,
        order: TrainOrder,
        start: Position,
        rank: int,
        workers: int,
        bad_samples: BadSamples,
    ):
        self._split, self._repeats, self._bad_samples = split, settings.repeats, bad_samples
        self._pins = torch.cuda.is_available()
        self._draws = _Paced(order.draws(start, rank))
        job = _TrainJob(split, settings, order.seed, bad_samples)
        shape = (settings.repeats, settings.frames, settings.size, settings.size, 3)
        self._made: Batches = batches_made(job, self._draws, order.batch, shape, workers)

    def __next__(self) -> TrainBatch:
        clips, outcomes = next(self._made)
        self._draws.hand_out()
        good = [outcome for outcome in outcomes if outcome.index is not None]
        if len(good) < len(outcomes):
            self._raise_unless_skipped(outcomes)
            clips = clips[torch.tensor([outcome.index is not None for outcome in outcomes])]
        labels = self._split.labels[np.array([outcome.index for outcome in good])]
        batch = TrainBatch(
            clips.flatten(0, 1),
            torch.from_numpy(np.repeat(labels, self._repeats, axis=0)),
            [fault for outcome in outcomes for fault in outcome.faults],
            [outcome.made for outcome in good if outcome.made],
        )
        return batch.pin_memory() if self._pins else batch

    def _raise_unless_skipped(self, outcomes: list[Outcome]) -> None:
        place, faults = next((place, o.faults) for place, o in enumerate(outcomes) if o.index is None)
        key, cause = faults[-1]
        if self._bad_samples == "stop":
            raise DataError(f"{key}: {cause}. Mend the video, prepare the dataset again, or allow for --bad-samples")
        if self._bad_samples == "replace" or place == 0:
            raise DataError(
                f"{len(faults)} videos in a row cannot be read, the last {key}: {cause}. Prepare the dataset again"
            )

    def bar(self, videos: Mapping[str, int]) -> int:
        """Counts videos, by key, as failed without trying them, from an epoch on. All ranks are to be told the same,
        at the latest between the last batch of the second epoch before it and the first of the one after. Returns how
        many of them there are in the split."""
        found = self._split.find(list(videos)) if videos else {}
        if found:
            self._made.tell({index: videos[key] for key, index in found.items()})
        return len(found)

    def close(self) -> None:
        """Ends the worker processes."""
        self._made.close()


def train_batches(
    split: ShardedSplit,
    settings: ClipSettings,
    order: TrainOrder,
    start: Position,
    rank: int,
    workers: int,
    bad_samples: BadSamples = "replace",
) -> TrainBatches:
    """The micro-batches of `rank` from `start` on: order.batch videos, `settings.repeats` clips of each.

    workers: processes that decode, each under the deadline of `settings`; 0 decodes in this process, where a decoder
    that hangs cannot be ended. bad_samples: what becomes of a video that cannot be read. "replace": another takes its
    place, which (seed, epoch, position) choose. "skip": it is left out of its batch, which is the smaller by it; the
    first of a batch is replaced, so that none is empty and all ranks take the same steps. "stop": DataError.
    """
    return TrainBatches(split, settings, order, start, rank, workers, bad_samples)


def train_draws(
    split: ShardedSplit, settings: ClipSettings, indices: Sequence[int], seed: int, workers: int
) -> Iterator[torch.Tensor | str]:
    """Of each of the videos `indices` what training may see of it: `settings.repeats` crops (repeats, T, S, S, 3) of
    one random clip, or why there are none."""
    shape = (settings.repeats, settings.frames, settings.size, settings.size, 3)
    draws = [[Draw(index, 0, place)] for place, index in enumerate(indices)]
    made = batches_made(_TrainJob(split, settings, seed, "stop"), iter(draws), 1, shape, min(workers, len(indices)))
    try:
        for clips, (outcome,) in made:
            yield outcome.faults[-1][1] if outcome.index is None else clips[0]
    finally:
        made.close()


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
    shape = (views[0] * views[1], settings.frames, settings.size, settings.size, 3)
    made = batches_made(
        _ViewJob(split, settings, *views), iter(chunks), videos_per_batch, shape, min(workers, len(indices))
    )
    try:
        for chunk in chunks:
            batch = _view_batch(split, chunk, *next(made))
            yield batch.pin_memory() if torch.cuda.is_available() else batch
    finally:
        made.close()


def _view_batch(split: ShardedSplit, chunk: Sequence[int], clips: torch.Tensor, outcomes: list[Outcome]) -> ViewBatch:
    faults = [(index, *o.faults[-1]) for index, o in zip(chunk, outcomes, strict=True) if o.index is None]
    kept = [place for place, outcome in enumerate(outcomes) if outcome.index is not None]
    indices = torch.tensor([chunk[place] for place in kept], dtype=torch.int64)
    seconds = torch.from_numpy(np.array([outcomes[place].made for place in kept]))
    labels = torch.from_numpy(split.labels[indices.numpy()])
    return ViewBatch(clips[kept] if faults else clips, labels, indices, seconds, faults)
