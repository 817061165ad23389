"""Whether each video of a manifest can be used, found out in processes of their own under a deadline, and which frames
of its file it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tubelet.video import VideoInfo, frames_between, scan_video

from ..manifest import Video
from ..processes.parallel import Crew, Task, cause_of, do_all

# A file is the clip itself, and not a longer video around it, when it is no longer than that and what a cut at the
# frames of a slow video may add.
_TRIMMING_SLACK_S = 1.0


@dataclass(frozen=True)
class Checked:
    """A video that will be in a shard: what the manifest says of it, the file whose `bytes` are stored, what that says
    of itself, and the frames start_frame <= i < end_frame of it that the video is."""

    video: Video
    file: Path
    bytes: int
    info: VideoInfo
    start_frame: int
    end_frame: int


@dataclass(frozen=True)
class Bad:
    """A video that is left out, and why."""

    video: Video
    cause: str


def check_all(
    videos: Sequence[Video], sizes: dict[Path, int], decode: bool, deadline: float, crew: Crew
) -> tuple[list[Checked], list[Bad]]:
    """The good videos and the bad ones, in order. Each file is read once, however many videos are parts of it.

    sizes: bytes of each file.
    """
    clips_by_file: dict[Path, list[Video]] = {}
    for video in videos:
        clips_by_file.setdefault(video.path, []).append(video)
    task: Task[list[Video]] = Task(
        "checking",
        partial(_check_file, decode),
        failed=lambda clips, error: [cause_of(error, "checked", deadline)] * len(clips),
        videos=len,
        deadline=lambda clips: deadline,
    )
    found: dict[str, Checked | Bad] = {}
    for clips, results in do_all(task, list(clips_by_file.values()), crew):
        for video, result in zip(clips, results, strict=True):
            found[video.key] = _outcome(video, result, sizes[video.path])
    outcomes = [found[video.key] for video in videos]
    return [good for good in outcomes if isinstance(good, Checked)], [bad for bad in outcomes if isinstance(bad, Bad)]


def _check_file(decode: bool, clips: Sequence[Video]) -> list[Any]:
    """Of each video that is in one file, the cause why it is bad, or [info, first frame, frame after the last, whether
    it is the whole file although the manifest gives it times]."""
    path = clips[0].path
    scan = scan_video(path, decode=decode)
    return [_part(video, scan.info, scan.times) for video in clips]


def _part(video: Video, info: VideoInfo, times: np.ndarray) -> Any:
    whole = [asdict(info), 0, info.frames, True]
    if video.start is None and video.end is None:
        return whole
    start, end = video.start or 0.0, math.inf if video.end is None else video.end
    if video.may_be_trimmed and (info.duration <= end - start + _TRIMMING_SLACK_S or start >= info.duration):
        return whole
    first, after = frames_between(times, start, end)
    if first == after:
        return f"no frame lies between start and end: the file is {info.duration:.2f} s long"
    return [asdict(info), first, after, False]


def _outcome(video: Video, result: Any, size: int) -> Checked | Bad:
    if isinstance(result, str):
        return Bad(video, result)
    info, first, after, whole = result
    video = replace(video, start=None, end=None) if whole else video
    return Checked(video, video.path, size, VideoInfo(**info), first, after)
