"""Re-encoding the videos of a dataset, each under a deadline, and what that does to size, speed and quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from tubelet.video import Quality, VideoInfo, measure_quality, reencode

from ..processes.disk import megabytes, sync
from ..processes.parallel import Crew, Task, cause_of, do_all
from .checking import Bad, Checked

_TASK = "re-encoding"
_BYTES_A_FRAME = 2500  # of Kinetics with a short side of 256
_SAMPLE = 16
_SSIM_SIDE = 8  # its windows have this side: smaller frames have none
_FRAMES_A_DEADLINE = 1000
_IN_A_FOLDER = 1000


@dataclass(frozen=True)
class Encoding:
    """What `--encode fast` has done. frames, bytes: of all videos as stored; source_bytes: of the files they are from,
    of parts in proportion; measured: videos in the sample whose mean is `sample`, None where none of it is good."""

    short_side: int
    videos: int
    frames: int
    source_bytes: int
    bytes: int
    measured: int
    sample: Quality | None

    def __str__(self) -> str:
        text = (
            f"re-encoded {self.videos} videos, {megabytes(self.source_bytes)} -> {megabytes(self.bytes)} "
            f"({self.bytes / self.source_bytes:.2f} of the size)"
        )
        if self.sample is None:
            return text
        return (
            f"{text}; on a sample of {self.measured}: a clip in {self.sample.encoded_ms:.1f} ms of CPU instead of "
            f"{self.sample.source_ms:.1f} ({self.sample.source_ms / self.sample.encoded_ms:.1f} times as fast), "
            f"PSNR {self.sample.psnr:.1f} dB, SSIM {self.sample.ssim:.3f}"
        )


@dataclass(frozen=True)
class _Piece:
    source: Checked
    target: Path
    is_sample: bool


def reencode_all(
    videos: Sequence[Checked], short_side: int, seed: int, deadline: float, crew: Crew
) -> tuple[list[Checked], list[Bad], Encoding | None]:
    """The videos as files of their own, kept in `crew.folder`, of just their frames; those that could not be made; and
    what that did (None where none was made). A pure function of the files but for its times of decoding."""
    order = np.random.default_rng(seed).permutation(len(videos)).tolist()
    sides = [min(video.info.height, video.info.width, short_side) for video in videos]
    sample = set([at for at in order if sides[at] >= _SSIM_SIDE][:_SAMPLE])
    pieces = [_Piece(video, _target(crew.folder, at), at in sample) for at, video in enumerate(videos)]

    def failed(piece: _Piece, error: Exception) -> Any:
        if isinstance(error, OSError) and error.errno:
            raise error  # of the disk, not of the video
        return cause_of(error, "re-encoded", limit(piece))

    def limit(piece: _Piece) -> float:
        return deadline * max(1.0, piece.source.end_frame / _FRAMES_A_DEADLINE)

    task = Task(_TASK, partial(_reencode, short_side, seed), failed, deadline=limit)
    results = {piece.source.video.key: (piece, result) for piece, result in do_all(task, pieces, crew)}
    good: list[Checked] = []
    bad: list[Bad] = []
    qualities = []
    source_bytes = 0.0
    for source in videos:
        piece, result = results[source.video.key]
        if isinstance(result, str):
            bad.append(Bad(source.video, result))
            continue
        facts, size, quality = result
        info = VideoInfo(**facts)
        good.append(replace(source, file=piece.target, bytes=size, info=info, start_frame=0, end_frame=info.frames))
        source_bytes += source.bytes * info.frames / source.info.frames
        qualities += [Quality(**quality)] if quality else []
    return good, bad, _summary(short_side, good, source_bytes, qualities) if good else None


def bytes_to_come(videos: Sequence[Checked], crew: Crew) -> float:
    """About how much the videos that are not re-encoded yet will take."""
    frames = size = 0
    for _, result in crew.journal(_TASK).read():
        if not isinstance(result, str):
            frames += result[0]["frames"]
            size += result[1]
    total = sum(video.end_frame - video.start_frame for video in videos)
    return max(0, total - frames) * (size / frames if frames else _BYTES_A_FRAME)


def _target(folder: Path, number: int) -> Path:
    return folder / "encoded" / f"{number // _IN_A_FOLDER:05d}" / f"{number:08d}.mp4"


def _reencode(short_side: int, seed: int, piece: _Piece) -> Any:
    source, target = piece.source, piece.target
    frames = (source.start_frame, source.end_frame)
    target.parent.mkdir(parents=True, exist_ok=True)
    info = reencode(source.file, target, frames=frames, short_side=short_side)
    sync(target)
    quality = asdict(measure_quality(source.file, target, frames, short_side, seed)) if piece.is_sample else None
    return [asdict(info), target.stat().st_size, quality]


def _summary(short_side: int, videos: Sequence[Checked], source_bytes: float, measured: Sequence[Quality]) -> Encoding:
    mean = None
    if measured:
        names = [each.name for each in fields(Quality)]
        mean = Quality(**{name: round(fmean(getattr(one, name) for one in measured), 4) for name in names})
    frames, size = sum(video.info.frames for video in videos), sum(video.bytes for video in videos)
    return Encoding(short_side, len(videos), frames, round(source_bytes), size, len(measured), mean)
