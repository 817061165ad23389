"""TorchCodec, where it is installed: exact seeking, on one thread."""

from __future__ import annotations

import numpy as np

from .errors import Unsuited
from .guest import GuestReader, first_line
from .source import Source
from .table import Scan


class TorchCodecReader(GuestReader):
    """TorchCodec's `VideoDecoder`. Errors of the constructor: Unsuited where it would be wrong or cannot open."""

    backend = "torchcodec"

    def __init__(self, source: Source, scan: Scan) -> None:
        super().__init__(source, scan)
        from torchcodec.decoders import VideoDecoder

        if scan.distrust:
            raise Unsuited(scan.distrust)
        if scan.format == "mpegts":
            raise Unsuited("torchcodec cannot seek in an MPEG transport stream with an open GOP")
        if scan.bits > 8:
            raise Unsuited(f"torchcodec gives other colours on {scan.bits}-bit video")
        where = source.whole()
        try:
            self._decoder = VideoDecoder(
                where if isinstance(where, bytes) else str(where),
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                seek_mode="exact",
            )
        except (RuntimeError, ValueError) as error:
            raise Unsuited(f"torchcodec cannot open it: {first_line(error)}") from error
        if len(self._decoder) != scan.info.frames:
            raise Unsuited(f"torchcodec finds {len(self._decoder)} frames where {scan.info.frames} decode")

    def _batch(self, wanted: np.ndarray) -> np.ndarray:
        try:
            return self._decoder.get_frames_at(wanted.tolist()).data.numpy()
        except (RuntimeError, IndexError) as error:
            raise Unsuited(f"torchcodec cannot decode it: {first_line(error)}") from error
