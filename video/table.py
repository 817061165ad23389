"""What one pass over the packets of a video found out, in memory and packed."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, replace
from fractions import Fraction

import numpy as np

from .decoder import Decoder
from .info import VideoInfo


@dataclass(frozen=True)
class Scan:
    """The table of packets, in decoding order, and what it means.

    pts, dts: (packets,) int64 in units of `time_base` seconds. keys: (packets,) bool, a decoder may start there. spare:
    (packets,) bool, no other is predicted from it. starts, sizes: (packets,) int64, the bytes of each in the file.
    order: (frames,) the packet of each frame, in presentation order. times: (frames,) seconds from the first frame.
    decoder: what decodes them. bits: of a colour sample. discarded: packets whose frames are not shown.
    detour: why the packets cannot be taken out of the file as they lie there; None: they can.
    distrust: why the table is not one of frames, so that only a decode from the start is right; None: it is one.
    """

    info: VideoInfo
    pts: np.ndarray
    dts: np.ndarray
    keys: np.ndarray
    spare: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    order: np.ndarray
    times: np.ndarray
    decoder: Decoder
    time_base: Fraction
    format: str
    bits: int
    header_duration: bool
    discarded: int
    detour: str | None
    distrust: str | None

    def pack(self) -> bytes:
        """The scan in a few bytes a frame, to be kept beside the video. `Scan.unpack` gives it back."""
        shown = np.zeros(len(self.pts), bool)
        shown[self.order] = True
        flags = self.keys | self.spare.astype(np.uint8) << 1 | shown.astype(np.uint8) << 2
        gaps = self.starts - np.concatenate([[0], (self.starts + self.sizes)[:-1]])
        # Differences of neighbours are small and repeat, and so do the bytes of one rank in them.
        columns = [np.diff(self.pts, prepend=0), np.diff(self.dts, prepend=0), self.sizes, gaps]
        ranked = np.stack(columns).view(np.uint8).reshape(len(columns), -1, 8).transpose(0, 2, 1)
        times = b"" if np.array_equal(self.times, self._stamped_times()) else self.times.tobytes()
        facts = {name: getattr(self, name) for name in _PLAIN}
        facts |= {"info": asdict(self.info), "decoder": self.decoder.as_json(), "time_base": str(self.time_base)}
        head = json.dumps(facts).encode()
        lengths = np.array([len(head), len(self.pts), len(times)], np.int64).tobytes()
        return zlib.compress(lengths + head + times + flags.tobytes() + ranked.tobytes(), 9)

    @classmethod
    def unpack(cls, packed: bytes) -> Scan:
        """Errors: ValueError for bytes that `pack` did not make."""
        try:
            data = zlib.decompress(packed)
            (head, packets, timed), at = np.frombuffer(data, np.int64, 3).tolist(), 24
            facts = json.loads(data[at : at + head])
            times = np.frombuffer(data, np.float64, timed // 8, at + head)
            flags = np.frombuffer(data, np.uint8, packets, at + head + timed)
            ranked = np.frombuffer(data, np.uint8, 32 * packets, at + head + timed + packets).reshape(4, 8, packets)
            info, decoder = VideoInfo(**facts["info"]), Decoder.from_json(facts["decoder"])
            time_base, plain = Fraction(facts["time_base"]), {name: facts[name] for name in _PLAIN}
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"not a packed scan ({error})") from error
        pts, dts, sizes, gaps = np.ascontiguousarray(ranked.transpose(0, 2, 1)).view(np.int64)[..., 0]
        pts, dts = np.cumsum(pts), np.cumsum(dts)
        shown = np.flatnonzero(flags & 4)
        scan = cls(
            info,
            pts,
            dts,
            (flags & 1).astype(bool),
            (flags & 2).astype(bool),
            np.cumsum(gaps + sizes) - sizes,
            sizes,
            shown[np.argsort(pts[shown], kind="stable")],
            times,
            decoder,
            time_base,
            **plain,
        )
        return scan if timed else replace(scan, times=scan._stamped_times())

    def _stamped_times(self) -> np.ndarray:
        stamps = self.pts[self.order]
        return (stamps - stamps[:1]) * float(self.time_base)


_PLAIN = ("format", "bits", "header_duration", "discarded", "detour", "distrust")
