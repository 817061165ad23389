"""decord: taken only for files whose packets say that it is right; for every other one PyAV is."""

from __future__ import annotations

import io

import numpy as np

from .errors import Unsuited
from .guest import GuestReader, first_line
from .source import Source
from .table import Scan

_CODECS = ("h264", "hevc", "vp8", "vp9", "mpeg4", "mpeg2video", "mjpeg")
_FORMATS = ("mov", "matroska", "avi")


class DecordReader(GuestReader):
    """decord on one thread. It conceals damage: a file that has not been probed may give wrong pixels without an error.

    Errors of the constructor: Unsuited, with the reason, where decord would be wrong or cannot open the file.
    """

    backend = "decord"

    def __init__(self, source: Source, scan: Scan) -> None:
        super().__init__(source, scan)
        import decord

        if doubt := doubts(scan):
            raise Unsuited(doubt)
        where = source.whole()
        target = io.BytesIO(where) if isinstance(where, bytes) else str(where)
        try:
            # Its default of many threads cannot decode VP9, and costs more CPU for a clip than it saves in waiting.
            self._decoder = decord.VideoReader(target, ctx=decord.cpu(0), num_threads=1)
            starts = self._decoder.get_frame_timestamp(range(len(self._decoder)))[:, 0]
        except (decord.DECORDError, RuntimeError, AssertionError) as error:
            raise Unsuited(f"decord cannot open it: {first_line(error)}") from error
        if len(starts) != scan.info.frames:
            raise Unsuited(f"decord finds {len(starts)} frames where {scan.info.frames} decode")
        if not np.allclose(starts - starts[0], scan.times, atol=1e-3):
            raise Unsuited("decord puts its frames at other times")
        self._error = decord.DECORDError

    def _batch(self, wanted: np.ndarray) -> np.ndarray:
        try:
            return self._decoder.get_batch(wanted.tolist()).asnumpy()
        except self._error as error:
            raise Unsuited(f"decord cannot decode it: {first_line(error)}") from error


def doubts(scan: Scan) -> str | None:
    """The reason to keep decord from a file, or None. Each is a kind it was measured to get wrong."""
    if scan.distrust:
        return scan.distrust
    if scan.info.codec not in _CODECS:
        return f"decord does not know {scan.info.codec}"
    if not scan.format.startswith(_FORMATS):
        return f"decord seeks wrongly in {scan.format}"
    if min(scan.info.height, scan.info.width) < 16:
        return "decord cannot copy out frames less than 16 pixels wide or high"
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
