"""Opening a video with the decoder asked for, and probing one without keeping it open."""

from __future__ import annotations

import difflib
from importlib import import_module, metadata
from pathlib import Path

from av.video.frame import VideoFrame

from .backend_decord import DecordReader
from .backend_pyav import PyAVReader
from .backend_torchcodec import TorchCodecReader
from .errors import Unsuited, VideoError
from .info import VideoInfo
from .reader import VideoReader
from .scan import decode_all, scan_source
from .source import Source, Span
from .table import Scan

_PACKAGES = {"pyav": "av", "decord": "decord", "torchcodec": "torchcodec"}
BACKENDS: tuple[str, ...] = tuple(_PACKAGES)


def available_backends() -> dict[str, str | None]:
    """The version of each decoder in BACKENDS, None where it is not installed or does not load."""
    return {backend: _version(backend) for backend in BACKENDS}


def open_video(
    source: str | Path | Span | bytes, *, backend: str = "pyav", name: str | None = None, scan: Scan | None = None
) -> VideoReader:
    """Opens a file, a span of one, or a file's bytes, for frame-accurate reading; `name` stands for it in messages.

    scan: what `scan_video` found out of the same bytes before, so that they need not be looked through again.

    Where decord or torchcodec would be wrong on this file or cannot open it, the reader uses PyAV and says why in
    its `fallback`. Open it after a fork, in the process that reads.
    Errors: VideoError for what is not a whole video, ValueError for an unknown backend, RuntimeError for one that is
    not installed.
    """
    reader = _reader_class(backend)
    place = Source.of(source, name)
    facts = scan or scan_source(place)
    if reader is PyAVReader:
        return PyAVReader(place, facts)
    try:
        return reader(place, facts)
    except Unsuited as reason:
        return PyAVReader(place, facts, fallback=str(reason))


def probe(source: str | Path | Span | bytes, *, name: str | None = None, decode: bool = True) -> VideoInfo:
    """What a video is, and that it is whole: `scan_video(...).info`."""
    return scan_video(source, name=name, decode=decode).info


def scan_video(source: str | Path | Span | bytes, *, name: str | None = None, decode: bool = False) -> Scan:
    """What a reader wants to know of a video before it decodes a clip of it, from one pass over its packets.

    With `decode` every frame is decoded, and a file that is cut short or damaged raises VideoError with the cause and
    the count; without, only the packets are read, and damage inside them goes unseen.
    """
    place = Source.of(source, name)
    facts = scan_source(place)
    if decode and not facts.distrust:  # one that cannot be trusted was decoded wholly to be scanned
        _check_frames(place, facts.info.frames)
    return facts


def _check_frames(place: Source, expected: int) -> None:
    frames = lost = 0
    damaged: list[int] = []
    for result in decode_all(place):
        if not isinstance(result, VideoFrame):
            lost += 1
            continue
        if result.is_corrupt:
            damaged.append(frames)
        frames += 1
    if damaged:
        cause = f"{len(damaged)} of {expected} frames are damaged (the first is frame {damaged[0]})"
        raise VideoError(place.name, cause + (f", and {lost} do not decode" if lost else ""))
    if lost or frames != expected:
        raise VideoError(place.name, f"{frames} of {expected} frames decode: the file is cut short or damaged")


def _reader_class(backend: str) -> type[VideoReader]:
    if backend not in BACKENDS:
        near = difflib.get_close_matches(backend, BACKENDS, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown video backend {backend!r}: {hint}there are {', '.join(BACKENDS)}")
    if backend == "pyav":
        return PyAVReader
    if _version(backend) is None:
        install = "tubelet[torchcodec]" if backend == "torchcodec" else backend
        raise RuntimeError(f"the video backend {backend!r} is not installed, or does not load: pip install {install}")
    return DecordReader if backend == "decord" else TorchCodecReader


def _version(backend: str) -> str | None:
    try:
        import_module(_PACKAGES[backend])
        return metadata.version(_PACKAGES[backend])
    # A decoder whose shared libraries are missing fails with OSError or RuntimeError at import.
    except (ImportError, OSError, RuntimeError):
        return None
