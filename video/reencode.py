"""Re-encoding a video, or a part of it, as the H.264 that is cheapest to read clips from.

Measured on Kinetics: the size of the original, and a clip of 16 frames in a seventh of the time. A keyframe every 32
frames keeps the way to any frame short; three of four frames are B-frames that no other needs, so that a reader leaves
out those it does not want; and decoding goes without its two dearest steps, arithmetic coding and the deblocking
filter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import reduce
from operator import or_
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from .encode import writing
from .errors import VideoError
from .info import VideoInfo
from .pixels import samples
from .scan import Scan, scan_source, video_stream, whole_frames
from .source import Source, Span

_RECIPE = {
    "preset": "slow",
    "crf": "23",
    "g": "32",
    "keyint_min": "32",
    "sc_threshold": "0",
    "bf": "3",
    # cpu-independent: x264's instructions for AVX-512 round otherwise, and not alike each time.
    "x264-params": "open-gop=0:b-pyramid=0:b-adapt=0:cabac=0:no-deblock=1:cpu-independent=1",
}
# With these flags swscale gives the same pixels on every processor. PyAV 17 does not know them yet.
_FLAGS = [Interpolation[name] for name in ("ACCURATE_RND", "BITEXACT") if name in Interpolation.__members__]
_SCALING = reduce(or_, _FLAGS, Interpolation.BICUBIC)


def reencode(
    source: str | Path | Span | bytes,
    target: Path,
    *,
    frames: tuple[int, int] | None = None,
    short_side: int = 256,
    name: str | None = None,
) -> VideoInfo:
    """Writes the frames first <= i < after of `source`, all without `frames`, to the MP4 `target`. Returns its facts.

    As the reader shows them: upright, of one size, and at the same times, whatever the rate. The shorter side
    becomes `short_side` pixels, and is never enlarged; an odd row or column is cut off. 8 bit, 4:2:0; matrix, range and
    sample aspect ratio of the source; no sound. The same source gives the same bytes, and the file appears whole or not
    at all.
    Errors: VideoError where a frame of the source is damaged or missing, ValueError for frames that it has not or an
    odd `short_side`, OSError where `target` cannot be written.
    """
    if short_side < 2 or short_side % 2:
        raise ValueError(f"short_side must be even and 2 or more, not {short_side}")
    place = Source.of(source, name)
    scan = scan_source(place)
    first, after = frames or (0, scan.info.frames)
    if not 0 <= first < after <= scan.info.frames:
        raise ValueError(f"no frames {first} to {after}: {place.name} has {scan.info.frames}")
    try:
        try:
            _write(place, scan, target, first, after, short_side, seek=True)
        except Lost:
            _write(place, scan, target, first, after, short_side, seek=False)
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise VideoError(place.name, f"the encoder refuses it ({error.strerror})") from error
    written = scan_source(Source.of(target, None)).info
    if written.frames != after - first:
        target.unlink()
        raise VideoError(place.name, f"re-encoded it has {written.frames} frames instead of {after - first}")
    return written


def shown_frames(
    source: Source, scan: Scan, first: int, after: int, short_side: int, seek: bool = True
) -> Iterator[VideoFrame]:
    """The frames first <= i < after as `reencode` has them encoded: yuv420p, upright, in their new size.

    Errors: VideoError where one is damaged or missing; Lost where seeking to the first did not find it.
    """
    height, width = _new_size(scan.info.height, scan.info.width, short_side)
    quarters = scan.info.rotation // 90
    # Scaled first, then turned: there is less to turn.
    lying = (height, width) if quarters % 2 else (width, height)
    scaler = VideoReformatter()
    for frame in _from_key(source, scan, first, after) if seek and first else _from_start(source, scan, first, after):
        yield _upright(scaler.reformat(frame, *lying, "yuv420p", interpolation=_SCALING, threads=1), quarters)


class Lost(Exception):
    """Decoding from a keyframe did not give the frames that it should: from the start it will."""


def _new_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Sides after scaling. Those of a video that is not scaled may be odd."""
    short = min(height, width)
    if short <= short_side:
        return max(height, 2), max(width, 2)
    height, width = (round(side * short_side / short / 2) * 2 for side in (height, width))
    return height, width


def _upright(frame: VideoFrame, quarters: int) -> VideoFrame:
    """yuv420p, turned clockwise, without what is odd on its right and at its bottom."""
    if not quarters and frame.width % 2 == frame.height % 2 == 0:
        return frame
    planes = [np.rot90(samples(frame.planes[number]), -quarters) for number in range(3)]
    height, width = (side - side % 2 for side in planes[0].shape)
    turned = VideoFrame(width, height, "yuv420p")
    for number, plane in enumerate(planes):
        pixels = samples(turned.planes[number])
        pixels[:] = plane[: pixels.shape[0], : pixels.shape[1]]
    turned.color_range, turned.colorspace = frame.color_range, frame.colorspace
    turned.color_primaries, turned.color_trc = frame.color_primaries, frame.color_trc
    return turned


def _from_start(source: Source, scan: Scan, first: int, after: int) -> Iterator[VideoFrame]:
    index, total, begin = -1, scan.info.frames, None
    for index, frame in enumerate(whole_frames(source, total)):
        begin = _seconds(frame) if begin is None else begin
        if not scan.distrust and (index == total or not _is_at(frame, begin + scan.times[index])):
            raise VideoError(source.name, f"frame {index} of {total} is missing or damaged")
        if index >= first:
            yield frame
        if index + 1 == after:
            return
    raise VideoError(source.name, f"{index + 1} of {total} frames decode: the file is cut short or damaged")


def _from_key(source: Source, scan: Scan, first: int, after: int) -> Iterator[VideoFrame]:
    """The same from a keyframe shortly before the first. Errors: Lost at the least doubt."""
    with source.container() as container:
        stream = video_stream(container, source.name)
        try:
            begin = _seconds(next(container.decode(stream)))
            # A second early: some containers seek in decoding time, and frames shown before a keyframe need the one
            # before that.
            container.seek(round((begin + scan.times[first] - 1) / float(stream.time_base or 1)), stream=stream)
            index = first
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise Lost
                if not _is_at(frame, begin + scan.times[index]):
                    if index > first or _seconds(frame) > begin + scan.times[first]:
                        raise Lost
                    continue
                yield frame
                index += 1
                if index == after:
                    return
        except (av.FFmpegError, StopIteration, ValueError) as error:  # ValueError: its first frame bears no stamp
            raise Lost from error
    raise Lost


def _seconds(frame: VideoFrame) -> float:
    return math.nan if frame.pts is None else frame.pts * _tick(frame)


def _tick(frame: VideoFrame) -> float:
    return float(frame.time_base or 1)


def _is_at(frame: VideoFrame, time: float) -> bool:
    """Whether a frame is shown at `time`, in seconds, to half a tick of its clock."""
    return abs(_seconds(frame) - time) < _tick(frame) / 2


def _write(source: Source, scan: Scan, target: Path, first: int, after: int, short_side: int, seek: bool) -> None:
    with source.container() as container:
        stream = video_stream(container, source.name)
        clock, shape = stream.time_base or Fraction(1, 1000), stream.sample_aspect_ratio
    stamps = _ticks(scan.times[first:after], clock)
    if shape and scan.info.rotation % 180:
        shape = 1 / shape
    rate = Fraction(scan.info.rate).limit_denominator(1001 * 60)
    with writing(target, "libx264", rate, _RECIPE) as (out, put):
        for at, frame in enumerate(shown_frames(source, scan, first, after, short_side, seek)):
            if not at:
                encoder = out.codec_context
                out.width, out.height, encoder.time_base = frame.width, frame.height, clock
                encoder.color_range, encoder.colorspace = frame.color_range, frame.colorspace
                encoder.color_primaries, encoder.color_trc = frame.color_primaries, frame.color_trc
                if shape:
                    out.sample_aspect_ratio = shape
            frame.pts, frame.time_base = int(stamps[at]), clock
            frame.pict_type = 0  # or the encoder would make a keyframe of what was one
            put(frame)


def _ticks(times: np.ndarray, clock: Fraction) -> np.ndarray:
    """Ascending seconds in ticks of `clock`, from 0; what is shown at once is shown a tick apart."""
    ticks = np.rint((times - times[0]) / float(clock)).astype(np.int64)
    steps = np.arange(len(ticks))
    return np.maximum.accumulate(ticks - steps) + steps
