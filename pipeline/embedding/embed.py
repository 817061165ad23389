"""Embeddings of videos by the million as Parquet, readable by pandas, pyarrow and anything else."""

from __future__ import annotations

import hashlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from tubelet.datasets import (
    DataError,
    StreamedClip,
    StreamedVideo,
    StreamSettings,
    Videos,
    open_videos,
    start_forkserver,
    streamed,
)

from ..checkpoints.trained import load_network
from ..cluster.distributed import World, join, naming_lost_ranks
from ..config import Count, Natural, Positive, Precision
from ..errors import ConfigError
from ..inputs.clips import ClipInput, autocast
from .network import Vectors, about, windows_for
from .parts import PartWriter, begin, counts, part_file, plan_parts, schema_of


@dataclass(frozen=True)
class EmbedConfig:
    checkpoint: Path | None = None
    """Folder of a training run (its best checkpoint is taken), one checkpoint in it, a folder that `tubelet export` or
    `tubelet convert` wrote, hf-hub:OWNER/NAME for such a folder on the Hub, or the id of published weights."""
    data: str | None = None
    """Folder that `tubelet prepare` made, here or at a URL; tars of any origin by name, with {000..012} and *; `pipe:`
    and a command that puts out a tar; or without preparing: a folder of videos, a list of paths (.txt, .csv or
    .parquet) or one video. Labels are not needed."""
    cache: Path | None = None
    """Folder for shards that are not on this machine (default: $TUBELET_HOME/shards or ~/.cache/tubelet/shards)."""
    out: Path | None = None
    """Folder for the Parquet files. The same command goes on where one that was killed left off."""
    split: str | None = None
    """Split to embed (default: all of them)."""
    layer: str | None = None
    """Module of the network whose output, averaged over frames and places, is the vector (default: the model's own
    embedding, which its head classifies). A name that there is not gets the list."""
    clips: Count = 1
    """Clips of a video, evenly spread over it."""
    every_frames: Count | None = None
    """Slide over the whole video instead: frames from the start of a clip to that of the next."""
    every_seconds: Positive | None = None
    """The same in seconds."""
    clip_frames: Count | None = None
    """Frames of the video that a clip covers; the network's number of frames is spread over them (default: as it was
    trained)."""
    clip_seconds: Positive | None = None
    """The same in seconds, whatever the frame rate."""
    pool: Literal["clip", "video"] = "clip"
    """A vector for each clip, or for each video the mean of those of its clips."""
    normalize: bool = False
    """Scale each vector to length 1."""
    store: Literal["fp16", "fp32"] = "fp16"
    """Precision of the stored vectors."""
    part_mb: Positive | None = None
    """MB of video that go into one Parquet file; a run that is killed loses no more than those of its workers' parts
    (default: 256, less where there are few videos)."""
    batch_size: Count = 16
    """Clips of one process at a time."""
    workers: Natural | None = None
    """Processes that read and decode (default: this process's share of the cores, at most 8)."""
    precision: Precision = "fp32"
    """Precision of the arithmetic."""
    decoder: Literal["pyav", "decord", "torchcodec"] = "pyav"
    """Which library decodes."""
    clip_deadline: Positive = 30.0
    """Seconds a worker has for a clip; a decoder that takes longer is ended, and the rest of its video is left out."""
    timeout: Positive = 1800.0
    """Seconds the processes wait for each other before they give up."""


@naming_lost_ranks()
def embed(config: EmbedConfig) -> Path:
    """Embeds as `config` says. Returns the folder with the Parquet files; for their columns see schema_of."""
    if config.data is None or config.out is None:
        raise ConfigError("embedding needs --checkpoint RUN, --data DIR_OR_LIST and --out DIR")
    if config.workers != 0:
        start_forkserver()
    trained = load_network(config.checkpoint)
    windows = windows_for(
        trained.clip,
        config.clip_frames,
        config.clip_seconds,
        config.every_frames,
        config.every_seconds,
        config.clips,
    )
    network = Vectors(trained.model, config.layer)
    videos = open_videos(config.data, config.split, config.cache)
    parts = plan_parts(videos.sizes, config.part_mb)
    made_by = about(trained, windows, config.layer, config.precision)
    made_by |= {"pool": config.pool, "normalized": config.normalize, "store": config.store}
    world = join(config.timeout)
    todo = _begin(config.out, _plan(videos, parts, made_by), world)
    settings = StreamSettings(windows, trained.clip.size, config.decoder, config.clip_deadline)
    schema = schema_of(network.features, config.store, videos.multilabel, made_by)
    inputs = ClipInput(trained.model.clip, world.device, config.precision)
    out = config.out
    network.to(world.device)
    run = Run(config, network, inputs, videos, settings, lambda part: PartWriter(out, part, videos, schema))
    rates = world.gather(run.embed([(part, parts[part]) for part in todo], world))
    if world.is_main:
        _report(config, network.features, len(parts), rates)
    return config.out


def _begin(out: Path, plan: dict[str, Any], world: World) -> list[int]:
    """The parts that are still to be made, the same on all ranks, or a ConfigError on all."""
    todo, fault = [], None
    if world.is_main:
        try:
            begin(out, plan)
            todo = [part for part in range(plan["parts"]) if not part_file(out, part).is_file()]
        except ConfigError as error:
            fault = str(error)
    # Of the first rank only: the folder may be seen late from other machines.
    todo, fault = world.gather((todo, fault))[0]
    if fault is not None:
        raise ConfigError(fault)
    return todo


def _plan(videos: Videos, parts: list[range], made_by: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(videos.sizes.tobytes())
    digest.update("\n".join(videos.key(number) for number in {0, len(videos) // 2, len(videos) - 1}).encode())
    return {"videos": len(videos), "parts": len(parts), "data": digest.hexdigest(), "about": made_by}


def _report(config: EmbedConfig, features: int, parts: int, rates: list[tuple[int, float]]) -> None:
    assert config.out is not None
    rows, unread = counts(config.out, range(parts))
    if unread and not rows:
        raise DataError(f"{config.data}: none of {len(unread)} videos can be read, the first {': '.join(unread[0])}")
    clips, seconds = sum(each for each, _ in rates), max(each for _, each in rates)
    speed = f" ({clips / seconds:.1f} clips/s)" if clips else ""
    note = f"; {len(unread)} videos could not be read, or not wholly" if unread else ""
    what = "videos" if config.pool == "video" else "clips"
    print(f"{rows} {what} of {features} numbers each are in {config.out}{speed}{note}")


def _tickets(world: World) -> Iterator[int]:
    """0, 1, 2, ... each on one rank, whichever asks first: a rank with longer videos takes fewer parts."""
    if world.size == 1:
        yield from itertools.count()
    store = dist.distributed_c10d._get_default_store()
    while True:
        yield store.add("tubelet-embed-parts", 1) - 1


@dataclass
class _Part:
    """A part on its way. clips: those that wait for the network, `waiting` says which they are; the rest is of the
    video whose clips are averaged."""

    writer: PartWriter
    clips: torch.Tensor
    waiting: list[tuple[int, float, float]] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    video: int = -1
    start: float = 0.0
    end: float = 0.0
    total: np.ndarray | None = None
    count: int = 0


class Run:
    """Clips as they come from the decoding processes, through the network, into the parts that they belong to. Batches
    are of one part each, so that what is stored does not depend on how many processes there are."""

    def __init__(
        self,
        config: EmbedConfig,
        network: Vectors,
        inputs: ClipInput,
        videos: Videos,
        settings: StreamSettings,
        writer: Callable[[int], PartWriter],
    ):
        self.config, self.network, self.inputs, self.videos = config, network, inputs, videos
        self.settings, self.writer = settings, writer
        self._parts: dict[int, _Part] = {}

    def embed(self, parts: list[tuple[int, range]], world: World) -> tuple[int, float]:
        """Embeds this rank's share of `parts`. Returns how many clips, in how many seconds."""
        config = self.config
        mine = (parts[ticket] for ticket in itertools.takewhile(lambda ticket: ticket < len(parts), _tickets(world)))
        workers = world.default_workers() if config.workers is None else config.workers
        ahead = max(4, -(-2 * config.batch_size // max(workers, 1)))
        clips = 0
        with _Progress([numbers for _, numbers in parts], self.videos.sizes, world) as progress:
            try:
                for event in streamed(self.videos, self.settings, mine, workers, ahead):
                    if isinstance(event, StreamedClip):
                        self._take(event)
                        clips += 1
                        progress.clip(event)
                    elif isinstance(event, StreamedVideo):
                        self._end_video(event)
                        progress.video(event.video)
                    else:
                        self._end_part(event.part)
            finally:
                for part in self._parts.values():  # of a run that has failed
                    part.writer.abandon()
        return clips, progress.seconds

    def _part(self, number: int) -> _Part:
        if number not in self._parts:
            shape = (self.config.batch_size, *self.settings.shape)
            clips = torch.empty(shape, dtype=torch.uint8, pin_memory=self.inputs.device.type == "cuda")
            self._parts[number] = _Part(self.writer(number), clips)
        return self._parts[number]

    def _take(self, clip: StreamedClip) -> None:
        part = self._part(clip.part)
        part.clips[len(part.waiting)] = torch.from_numpy(clip.frames)
        part.waiting.append((clip.video, clip.start, clip.end))
        if len(part.waiting) == self.config.batch_size:
            self._embed(part)

    @torch.inference_mode()
    def _embed(self, part: _Part) -> None:
        if not part.waiting:
            return
        with autocast(self.inputs.device, self.config.precision):
            vectors = self.network(self.inputs.views(part.clips[: len(part.waiting)]))
        for (video, start, end), vector in zip(part.waiting, vectors.cpu().numpy(), strict=True):
            if self.config.pool == "clip":
                self._write(part, video, start, end, vector)
                continue
            if video != part.video:
                self._end_mean(part)
                part.video, part.start, part.total, part.count = video, start, np.zeros(len(vector)), 0
            assert part.total is not None
            part.total += vector
            part.end, part.count = max(part.end, end) if part.count else end, part.count + 1
        part.waiting.clear()

    def _end_mean(self, part: _Part) -> None:
        if part.total is not None and part.video not in part.failed:
            self._write(part, part.video, part.start, part.end, (part.total / part.count).astype(np.float32))
        part.total = None

    def _write(self, part: _Part, video: int, start: float, end: float, vector: np.ndarray) -> None:
        if self.config.normalize:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        part.writer.add(video, start, end, vector)

    def _end_video(self, event: StreamedVideo) -> None:
        if event.cause is not None:
            part, key = self._part(event.part), self.videos.key(event.video)
            part.failed.add(event.video)
            part.writer.unread.append((key, event.cause))
            print(f"not embedded, or not wholly: {key}: {event.cause}", file=sys.stderr)

    def _end_part(self, number: int) -> None:
        part = self._part(number)
        self._embed(part)
        self._end_mean(part)
        part.writer.finish()
        del self._parts[number]


class _Progress:
    """How far a rank is, by the bytes of its share of the videos, and how fast."""

    def __init__(self, parts: list[range], sizes: np.ndarray, world: World):
        self._sizes, self._begun, self._clips = sizes, time.perf_counter(), 0
        self._shown: dict[int, float] = {}
        total = sum(float(sizes[numbers].sum()) for numbers in parts) / world.size / 1e6
        form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} MB [{elapsed}<{remaining}{postfix}]"
        self._bar = tqdm(total=total, desc="embedding", disable=None if world.is_main else True, bar_format=form)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begun

    def clip(self, clip: StreamedClip) -> None:
        self._clips += 1
        self._bar.set_postfix_str(f"{self._clips / self.seconds:.1f} clips/s", refresh=False)
        self._show(clip.video, clip.done)

    def video(self, number: int) -> None:
        self._show(number, 1.0)
        del self._shown[number]

    def _show(self, number: int, done: float) -> None:
        self._bar.update(max(0.0, done - self._shown.get(number, 0.0)) * float(self._sizes[number]) / 1e6)
        self._shown[number] = done

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
