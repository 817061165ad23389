"""Writing videos, the same bytes for the same frames: what the tests, the demo set and `reencode` are made with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_FAST = {
    "libx264": {"preset": "veryfast", "crf": "23", "x264-params": "cpu-independent=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"},
    "mpeg4": {"qscale": "4"},
}
_CONTAINERS = (".mp4", ".webm", ".avi", ".mkv")


def encode_video(
    path: str | Path,
    frames: np.ndarray | torch.Tensor,
    rate: float | Fraction,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> None:
    """Writes uint8 RGB (T, H, W, 3) with even sides as yuv420p, `rate` frames a second, in the container of the suffix.

    codec: "libx264", "libvpx-vp9" or "mpeg4". options: of the encoder, over its fast defaults. One thread, so the same
    frames make the same bytes. The file appears whole or not at all.
    Errors: ValueError for frames, a suffix or a codec that it cannot write, naming it; av.FFmpegError from the encoder.
    """
    path = Path(path)
    pixels = _checked(path, frames, codec)
    with writing(path, codec, Fraction(rate).limit_denominator(1001 * 60), {**_FAST[codec], **(options or {})}) as (
        stream,
        put,
    ):
        stream.height, stream.width = pixels.shape[1:3]
        for image in pixels:
            put(VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))


@contextmanager
def writing(
    path: Path, codec: str, rate: Fraction, options: dict[str, str]
) -> Iterator[tuple[VideoStream, Callable[[VideoFrame], None]]]:
    """(stream, put): the stream to be set up, yuv420p, before the first frame is put into it. The file appears when the
    block ends, and not at all when it raises."""
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        # bitexact leaves out the writing library's version and random identifiers, which would change the bytes.
        with av.open(str(part), "w", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream(codec, rate=rate, options=options)
            assert isinstance(stream, VideoStream)
            stream.pix_fmt = "yuv420p"
            stream.thread_count = 1
            yield stream, lambda frame: container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _checked(path: Path, frames: np.ndarray | torch.Tensor, codec: str) -> np.ndarray:
    pixels = frames.cpu().numpy() if isinstance(frames, torch.Tensor) else np.asarray(frames)
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not len(pixels):
        raise ValueError(f"frames must be uint8 (T, H, W, 3) with T of 1 or more, not {pixels.dtype} {pixels.shape}")
    height, width = pixels.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"yuv420p needs even sides, not {height} x {width}: crop or pad by one pixel")
    if codec not in _FAST:
        raise ValueError(f"cannot encode with {codec!r}: there are {', '.join(_FAST)}")
    if path.suffix.lower() not in _CONTAINERS:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(_CONTAINERS)}, which names the container")
    return pixels
