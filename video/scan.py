"""One pass over the packets of a video: which packet makes which frame, and whether that can be trusted.

The reference is always a full sequential decode: frame i is the i-th frame that comes out of the decoder. Reading the
packets alone tells the same for nearly every file, and costs a hundredth. Where it does not, everything is decoded.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet, PktSideDataT
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .container import avi_fault, matroska_fault
from .decoder import Decoder, is_spare, nal_length_size
from .errors import VideoError
from .info import VideoInfo
from .source import Source
from .table import Scan

# What a container may put between the place that it gives for a packet and the packet's bytes, at most.
_HEADER = 64
_BESIDE: tuple[PktSideDataT, ...] = ("new_extradata", "param_change", "palette")
_MPEG4_FAMILY = ("mpeg4", "msmpeg4v3", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "h263", "flv1")


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """The best video stream, set to decode in this thread only. Errors: VideoError where there is none."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        kinds = sorted({other.type for other in container.streams})
        raise VideoError(name, f"no video stream: only {', '.join(kinds)}")
    # A threaded decoder hangs after fork, and one clip per worker is the parallelism. dav1d only heeds the count.
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def scan_source(source: Source) -> Scan:
    """Reads every packet of `source`, decodes the first frame. Errors: VideoError for what is not a whole video."""
    with source.container() as container, source.reading("its packets cannot be read"):
        stream = video_stream(container, source.name)
        with source.mapped() as data:
            packets, first = _read_packets(source, container, stream, data)
        _check_whole(source, container, stream, packets)
        table = _Table(packets)
        reordered = bool(stream.codec_context.has_b_frames)
        distrust = _distrust(table, container.format.name, stream.codec_context.codec.canonical_name, reordered)
        facts = {
            "format": container.format.name,
            "bits": max(component.bits for component in first.format.components),
            "header_duration": container.duration is not None,
            "discarded": int((~table.shown).sum()),
            "decoder": Decoder.of(stream.codec_context),
            "time_base": stream.time_base or Fraction(1, 1000),
            "detour": table.detour,
            "distrust": distrust,
        }
        declared = stream.average_rate
        codec = stream.codec_context.codec.canonical_name
    if distrust:
        order, pts = np.zeros(0, np.int64), [frame.pts for frame in whole_frames(source)]
    else:
        order = np.flatnonzero(table.shown)[np.argsort(table.pts[table.shown], kind="stable")]
        pts = [int(value) for value in table.pts[order]]
    times, rate, duration = _timing(pts, facts["time_base"], declared, table.last_duration)
    rotation = quarter_turns(first) * 90
    height, width = (first.width, first.height) if rotation % 180 else (first.height, first.width)
    info = VideoInfo(len(times), rate, height, width, codec, rotation, duration)
    columns = (table.pts, table.dts, table.keys, table.spare, table.starts, table.sizes)
    return Scan(info, *columns, order, times, **facts)


def quarter_turns(frame: VideoFrame) -> int:
    """Clockwise quarter turns (0 to 3), the nearest to what the display matrix asks for; nonsense asks for none."""
    counterclockwise = frame.rotation
    return round(-counterclockwise / 90) % 4 if abs(counterclockwise) <= 360 else 0


def decode_all(source: Source) -> Iterator[VideoFrame | av.FFmpegError]:
    """Every frame of `source` from the start, in output order, and the decoder's errors in the place of lost frames."""
    with source.container() as container, source.reading("its packets cannot be read"):
        stream = video_stream(container, source.name)
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                yield error
                continue
            yield from frames


def whole_frames(source: Source, total: int | None = None) -> Iterator[VideoFrame]:
    """Every frame of `source` from the start, in output order. total: how many there should be, where that is known.
    Errors: VideoError at the first damage."""
    for number, frame in enumerate(decode_all(source)):
        if not isinstance(frame, VideoFrame) or frame.is_corrupt:
            raise VideoError(source.name, f"frame {number}{f' of {total}' if total else ''} is damaged")
        yield frame


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int
    key: bool
    shown: bool
    spare: bool
    start: int  # of its bytes in the file, or -1
    size: int


class _Table:
    """The columns of the packet table."""

    def __init__(self, packets: list[_Packet]) -> None:
        missing = np.iinfo(np.int64).min
        self.stamped = all(packet.pts is not None for packet in packets)
        self.pts = np.array([missing if packet.pts is None else packet.pts for packet in packets], np.int64)
        self.dts = np.array([missing if packet.dts is None else packet.dts for packet in packets], np.int64)
        self.keys = np.array([packet.key for packet in packets], bool)
        self.shown = np.array([packet.shown for packet in packets], bool)
        self.spare = np.array([packet.spare for packet in packets], bool)
        self.starts = np.array([packet.start for packet in packets], np.int64)
        self.sizes = np.array([packet.size for packet in packets], np.int64)
        self.last_duration = packets[int(self.pts.argmax())].duration
        scattered = (self.starts < 0).any()
        self.detour = "its packets do not lie in the file as the decoder wants them" if scattered else None


def _read_packets(
    source: Source, container: InputContainer, stream: VideoStream, data: bytes | mmap.mmap
) -> tuple[list[_Packet], VideoFrame]:
    """Each packet in decoding order, and the first frame that decodes."""
    packets: list[_Packet] = []
    first: VideoFrame | None = None
    refused: av.FFmpegError | None = None
    cut = 0
    codec, nal_length = stream.codec_context.name, nal_length_size(stream.codec_context)
    for packet in container.demux(stream):
        if first is None:
            try:
                first = next(iter(packet.decode()), None)
            except av.FFmpegError as error:
                refused = error
        if not packet.size:  # demux ends with an empty packet that flushes the decoder
            continue
        if packet.has_sidedata("encryption_info"):
            raise VideoError(source.name, "it is encrypted: only a decrypted copy can be read")
        cut += packet.is_corrupt
        shown = not (packet.is_discard or _is_hidden(packet, codec))
        spare = is_spare(memoryview(packet), nal_length)
        key, start = packet.is_keyframe, _place(packet, data)
        packets.append(_Packet(packet.pts, packet.dts, packet.duration or 0, key, shown, spare, start, packet.size))
    promised = len(stream.index_entries) if container.format.name.startswith("mov") else 0
    if cut or len(packets) < promised:
        whole = f"{len(packets) - cut} of {max(promised, len(packets))} frames"
        raise VideoError(source.name, f"{whole} are in the file whole: it is cut short or damaged")
    if first is None:
        cause = f"the {codec} decoder refuses it ({refused.strerror})" if refused else "it has none"
        raise VideoError(source.name, f"no frame decodes: {cause}")
    return packets, first


def _place(packet: Packet, data: bytes | mmap.mmap) -> int:
    """Where the bytes of a packet begin in the file, or -1 where they do not lie there as the decoder wants them: in
    pieces, changed by the container, or to be read with something beside them."""
    if packet.pos is None or any(packet.has_sidedata(kind) for kind in _BESIDE):
        return -1
    return data.find(bytes(packet), packet.pos, packet.pos + packet.size + _HEADER)


def _check_whole(source: Source, container: InputContainer, stream: VideoStream, packets: list[_Packet]) -> None:
    """Containers whose end can be missing without FFmpeg telling."""
    fault = None
    with source.file() as file:
        if container.format.name.startswith("matroska"):
            fault = matroska_fault(file)
        elif container.format.name == "avi" and len(packets) < stream.frames:
            fault = avi_fault(file)
    if fault:
        raise VideoError(source.name, f"{fault} ({len(packets)} frames can be read)")


def _is_hidden(packet: Packet, codec: str) -> bool:
    """Whether a VP8 or VP9 packet holds only a reference picture (alt-ref), which no decoder puts out."""
    if codec not in ("vp8", "vp9", "libvpx", "libvpx-vp9"):
        return False
    data = memoryview(packet)
    if codec in ("vp8", "libvpx"):
        return not data[0] >> 4 & 1
    profile_3 = data[0] >> 4 & 3 == 3  # its header has one bit more; a superframe ends in 110xxxxx and shows one frame
    shows_existing, shows = (data[0] >> 2 & 1, data[0] & 1) if profile_3 else (data[0] >> 3 & 1, data[0] >> 1 & 1)
    return not (shows_existing or shows or data[-1] >> 5 == 6)


def _distrust(table: _Table, format: str, codec: str, reordered: bool) -> str | None:
    if not table.stamped:
        return "its packets carry no time stamps"
    if len(np.unique(table.pts)) < len(table.pts):
        return "two of its frames bear the same time stamp"
    if not table.keys[0]:
        return "it does not begin with a keyframe"
    if not table.shown.any() or (table.pts[table.shown] < table.pts[0]).any():
        return "frames are shown before its first keyframe"
    if format == "avi" and codec in _MPEG4_FAMILY and reordered:
        return "an AVI of B-frames packs two frames in a packet and has no right time stamps"
    return None


def _timing(
    pts: list[int | None], time_base: Fraction, declared: Fraction | None, last_duration: int
) -> tuple[np.ndarray, float, float]:
    """Seconds of each frame from the first, average rate, duration in seconds."""
    nominal = float(declared) if declared else 25.0
    stamps = [value for value in pts if value is not None]
    if len(stamps) < len(pts) or any(late < early for early, late in pairwise(stamps)):
        times: np.ndarray = np.arange(len(pts)) / nominal  # no usable stamps: the container's rate is all that is known
    else:
        times = (np.array(stamps, np.int64) - stamps[0]) * float(time_base)
    gap = float(times[-1] / (len(times) - 1)) if len(times) > 1 and times[-1] > 0 else 1 / nominal
    duration = float(times[-1]) + (last_duration * float(time_base) if last_duration > 0 else gap)
    measured = len(times) / duration
    # A container's clock is coarse (WebM: 1 ms), so its stated rate is the finer one unless the stamps deny it.
    return times, nominal if abs(measured - nominal) < 0.02 * nominal else measured, duration
