"""TorchCodec, where it is installed: exact seeking, on one thread."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .errors import Unsuited, VideoError
from .reader import VideoReader
from .scan import Scan
from .source import Source


class TorchCodecReader(VideoReader):
    """TorchCodec's `VideoDecoder`. Errors of the constructor: Unsuited where it would be wrong or cannot open."""

    backend = "torchcodec"

    def __init__(self, source: Source, scan: Scan) -> None:
        super().__init__(source, scan)
        from torchcodec.decoders import VideoDecoder

        if scan.distrust:
            raise Unsuited(scan.distrust)
        if scan.format == "mpegts":
            raise Unsuited("torchcodec cannot seek in an MPEG transport stream with an open GOP")
        where = source.where if isinstance(source.where, bytes) else str(source.where)
        try:
            self._decoder = VideoDecoder(where, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            raise Unsuited(f"torchcodec cannot open it: {error}") from error
        if len(self._decoder) != scan.info.frames:
            raise Unsuited(f"torchcodec finds {len(self._decoder)} frames where {scan.info.frames} decode")

    def close(self) -> None:
        self._decoder = None

    def _read(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        if not wanted.size:
            return
        if self._decoder is None:
            raise VideoError(self._source.name, "the reader is closed")
        try:
            images = self._decoder.get_frames_at(wanted.tolist()).data.numpy()
        except (RuntimeError, IndexError) as error:
            raise VideoError(self._source.name, f"torchcodec cannot decode it: {error}") from error
        yield from zip(wanted.tolist(), images, strict=True)
