"""Scores of the videos of a split, the same for any number of processes: what the model sees at once is one of the
split's batches, whoever computes it, so no score depends on who its neighbours happened to be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from tubelet.backbones import Model
from tubelet.datasets import ClipSettings, DataError, ShardedSplit, view_batches

from ..cluster.distributed import World
from ..inputs.clips import ClipInput, autocast
from .metrics import Metrics, VideoScores, as_targets, hits, metrics_of

Average = Literal["softmax", "logits"]


@dataclass(frozen=True)
class Scored:
    """Videos that were scored, and why the others were not, by their number in the split."""

    videos: VideoScores
    unread: dict[int, str] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence[Scored]) -> Scored:
        unread = {index: cause for part in parts for index, cause in part.unread.items()}
        return cls(VideoScores.joined([part.videos for part in parts]), dict(sorted(unread.items())))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@dataclass(frozen=True)
class Scorer:
    """How the videos of `split` are scored by `model`, on the device of `world`.

    views: temporal x spatial; clips_at_a_time: in the model at once, which decides how many videos are a batch;
    average: what of a video's clips is averaged, softmax (or sigmoid, of several labels) or logits.
    """

    model: Model
    split: ShardedSplit
    settings: ClipSettings
    views: tuple[int, int]
    world: World
    clips_at_a_time: int
    workers: int
    precision: str
    average: Average = "softmax"

    @property
    def clips(self) -> int:
        """Views of a video."""
        return self.views[0] * self.views[1]

    @property
    def videos_of_batch(self) -> int:
        return max(1, self.clips_at_a_time // self.clips)

    def batch(self, number: int) -> range:
        """The videos of batch `number` of the split."""
        first = number * self.videos_of_batch
        return range(first, min(first + self.videos_of_batch, len(self.split)))

    def score(
        self, done: Mapping[int, Scored] | None = None, keep: Callable[[int, Scored], None] | None = None
    ) -> Scored:
        """All videos, each by one rank, once; on every rank. `done`: batches that were scored before, the same ones on
        every rank; `keep` is given each further one that this rank scores. Raises DataError where no video can be read.
        """
        done = done or {}
        count = -(-len(self.split) // self.videos_of_batch)
        todo = [number for number in range(count) if number not in done]
        mine = todo[self.world.rank :: self.world.size]
        made = []
        quiet = None if self.world.is_main else True
        total = sum(len(self.batch(number)) for number in mine)
        with tqdm(total=total, desc="evaluating", unit=" videos", disable=quiet) as bar:
            for number, part in zip(mine, self._scored(mine), strict=True):
                if keep is not None:
                    keep(number, part)
                made.append(part)
                bar.update(len(self.batch(number)))
        nothing = Scored(VideoScores.empty(len(self.split.classes), self.clips))
        everywhere = self.world.gather(Scored.joined([nothing, *made]))
        scored = Scored.joined([*everywhere, *done.values()])
        if not len(scored.videos.index):
            raise DataError(
                f"{self.split.data}: none of its {len(scored.unread)} {self.split.split} videos can be read. "
                "Prepare it again"
            )
        return scored

    def metrics(self, scored: Scored | None = None) -> Metrics:
        """Of videos scored before, or of all of them, scored now."""
        scored = scored or self.score()
        return metrics_of(scored.videos, self.split.labels[scored.videos.index], len(scored.unread))

    @torch.inference_mode()
    def _scored(self, numbers: Sequence[int]) -> Iterator[Scored]:
        """Each of the batches `numbers`, which rise."""
        inputs = ClipInput(self.model.clip, self.world.device, self.precision)
        videos = [index for number in numbers for index in self.batch(number)]
        for batch in view_batches(self.split, self.settings, self.views, videos, self.videos_of_batch, self.workers):
            for _, key, cause in batch.faults:
                print(f"not evaluated: {key}: {cause}", file=sys.stderr)
            part = VideoScores.empty(len(self.split.classes), self.clips)
            if len(batch.indices):
                with evaluating(self.model):
                    scores = self._averaged(self._logits(inputs, batch.clips)).cpu().numpy()
                targets = as_targets(np.asarray(batch.labels), len(self.split.classes))
                clip_hits = hits(scores, targets[:, None].repeat(self.clips, 1)).sum(1)
                part = VideoScores(np.asarray(batch.indices, np.int64), scores.mean(1), clip_hits, self.clips)
            yield Scored(part, {index: cause for index, _, cause in batch.faults})

    def _logits(self, inputs: ClipInput, clips: torch.Tensor) -> torch.Tensor:
        """Logits (B, V, classes) of clips (B, V, T, S, S, 3), at most `clips_at_a_time` in the model at once."""
        parts = clips.flatten(0, 1).split(self.clips_at_a_time)
        with autocast(inputs.device, self.precision):
            logits = [self.model(inputs.views(part)) for part in parts]
        return torch.cat(logits).float().unflatten(0, clips.shape[:2])

    def _averaged(self, logits: torch.Tensor) -> torch.Tensor:
        """What is averaged over the views, in their place."""
        if self.average == "logits":
            return logits
        return logits.sigmoid() if self.split.card.multilabel else logits.softmax(-1)
