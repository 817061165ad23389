"""Whether each video of a manifest can be used, found out in processes of their own under a deadline, and which frames
of its file it is."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as DeadlineError
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from tubelet.video import VideoError, VideoInfo, frames_between, open_video, probe

from .manifest import Video

# A file is the clip itself, and not a longer video around it, when it is no longer than that and what a cut at the
# frames of a slow video may add.
_TRIMMING_SLACK_S = 1.0


@dataclass(frozen=True)
class Checked:
    """A video that will be in a shard: what the manifest says of it, what its file says, and the frames
    start_frame <= i < end_frame of the file that it is."""

    video: Video
    info: VideoInfo
    start_frame: int
    end_frame: int


@dataclass(frozen=True)
class Bad:
    """A video that is left out, and why."""

    video: Video
    cause: str


def check_all(videos: Sequence[Video], decode: bool, deadline: float, workers: int) -> tuple[list[Checked], list[Bad]]:
    """The good videos and the bad ones. Each file is read once, however many videos are parts of it."""
    clips_by_file: dict[Any, list[Video]] = {}
    for video in videos:
        clips_by_file.setdefault(video.path, []).append(video)
    files = list(clips_by_file.values())
    good: list[Checked] = []
    bad: list[Bad] = []
    with process_pool(workers) as pool:
        results = outcomes(pool, partial(_check_file, decode), files, deadline)
        for clips, outcome in tqdm(
            zip(files, results, strict=True), "checking", len(files), unit=" videos", disable=None
        ):
            if isinstance(outcome, Exception):
                bad += [Bad(video, _cause(outcome, deadline)) for video in clips]
            else:
                good += [result for result in outcome if isinstance(result, Checked)]
                bad += [result for result in outcome if isinstance(result, Bad)]
    return good, bad


def _check_file(decode: bool, clips: Sequence[Video]) -> list[Checked | Bad]:
    path = clips[0].path
    info = probe(path, decode=decode)
    times = None
    if any(video.start is not None or video.end is not None for video in clips):
        with open_video(path) as reader:
            times = reader.times()
    return [_part(video, info, times) for video in clips]


def _part(video: Video, info: VideoInfo, times: np.ndarray | None) -> Checked | Bad:
    if times is None or (video.start is None and video.end is None):
        return Checked(video, info, 0, info.frames)
    start, end = video.start or 0.0, math.inf if video.end is None else video.end
    if video.may_be_trimmed and (info.duration <= end - start + _TRIMMING_SLACK_S or start >= info.duration):
        return Checked(replace(video, start=None, end=None), info, 0, info.frames)
    first, after = frames_between(times, start, end)
    if first == after:
        return Bad(video, f"no frame lies between start and end: the file is {info.duration:.2f} s long")
    return Checked(video, info, first, after)


def process_pool(workers: int) -> ProcessPool:
    # Decoders leak a little on damaged files (see video/): a worker is replaced after 2,000 videos.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPool(max_workers=workers or os.cpu_count() or 1, max_tasks=2000, context=context)


def outcomes(pool: ProcessPool, function: Callable, items: Sequence, deadline: float | None) -> Iterator[Any]:
    """Results in the order of `items`; a deadline, a crash or an exception is yielded in its place, not raised."""
    results = pool.map(function, items, timeout=deadline, chunksize=1).result()
    for _ in items:
        try:
            yield next(results)
        except Exception as error:
            yield error


def _cause(error: Exception, deadline: float) -> str:
    if isinstance(error, VideoError):
        return error.cause
    if isinstance(error, DeadlineError):
        return f"not checked within {deadline:g} s: the decoder hangs or the disk is very slow"
    if isinstance(error, ProcessExpired):
        return f"the decoder crashed (exit code {error.exitcode})"
    return f"{type(error).__name__}: {error}"
