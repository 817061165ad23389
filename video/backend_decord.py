"""decord: taken only for files whose packets say that it is right; for every other one PyAV is."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from .errors import Unsuited, VideoError
from .reader import VideoReader
from .scan import Scan
from .source import Source

_CODECS = ("h264", "hevc", "vp8", "vp9", "mpeg4", "mpeg2video", "mjpeg")
_FORMATS = ("mov", "matroska", "avi")


class DecordReader(VideoReader):
    """decord on one thread. It conceals damage: a file that has not been probed may give wrong pixels without an error.

    Errors of the constructor: Unsuited, with the reason, where decord would be wrong or cannot open the file.
    """

    backend = "decord"

    def __init__(self, source: Source, scan: Scan) -> None:
        super().__init__(source, scan)
        import decord

        if doubt := doubts(scan):
            raise Unsuited(doubt)
        where = io.BytesIO(source.where) if isinstance(source.where, bytes) else str(source.where)
        try:
            # Its default of many threads cannot decode VP9, and costs more CPU for a clip than it saves in waiting.
            self._decoder = decord.VideoReader(where, ctx=decord.cpu(0), num_threads=1)
            starts = self._decoder.get_frame_timestamp(range(len(self._decoder)))[:, 0]
        except (decord.DECORDError, RuntimeError, AssertionError) as error:
            raise Unsuited(f"decord cannot open it: {_first_line(error)}") from error
        if len(starts) != scan.info.frames:
            raise Unsuited(f"decord finds {len(starts)} frames where {scan.info.frames} decode")
        if not np.allclose(starts - starts[0], scan.times, atol=1e-3):
            raise Unsuited("decord puts its frames at other times")
        self._error = decord.DECORDError

    def close(self) -> None:
        self._decoder = None

    def _read(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        if not wanted.size:
            return
        if self._decoder is None:
            raise VideoError(self._source.name, "the reader is closed")
        try:
            images = self._decoder.get_batch(wanted.tolist()).asnumpy()
        except self._error as error:
            raise VideoError(self._source.name, f"decord cannot decode it: {_first_line(error)}") from error
        if images.shape[1:3] != (self.info.height, self.info.width):
            shape = "x".join(map(str, images.shape[2:0:-1]))
            raise VideoError(self._source.name, f"decord gives frames of {shape}, not the file's own size")
        yield from zip(wanted.tolist(), images, strict=True)


def doubts(scan: Scan) -> str | None:
    """The reason to keep decord from a file, or None. Each is a kind it was measured to get wrong."""
    if scan.distrust:
        return scan.distrust
    if scan.info.codec not in _CODECS:
        return f"decord does not know {scan.info.codec}"
    if not scan.format.startswith(_FORMATS):
        return f"decord seeks wrongly in {scan.format}"
    if scan.bits > 8:
        return f"decord is off by more than rounding on {scan.bits}-bit video"
    if not scan.header_duration:
        return "decord needs a duration in the header"
    if scan.discarded:
        return f"decord shows the {scan.discarded} packets that the file hides or cuts away"
    if _open_gop(scan):
        return "decord loses the frames shown before a keyframe that precedes them (open GOP)"
    return None


def _open_gop(scan: Scan) -> bool:
    newest_key = np.maximum.accumulate(np.where(scan.keys, scan.pts, np.iinfo(np.int64).min))
    return bool((scan.pts < newest_key).any())


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
