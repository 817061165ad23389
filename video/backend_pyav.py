"""PyAV (FFmpeg): the default decoder, and the one that is right on every file it opens."""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from .errors import VideoError
from .reader import VideoReader
from .scan import Scan, decode_all, video_stream
from .source import Source


class PyAVReader(VideoReader):
    """Decodes from the keyframe at or before each wanted frame to the last one wanted, and nothing else."""

    backend = "pyav"

    def __init__(self, source: Source, scan: Scan, fallback: str | None = None) -> None:
        super().__init__(source, scan, fallback)
        self._container = source.container()
        self._stream = video_stream(self._container, source.name)
        self._nal_length = _nal_length_size(self._stream)
        # One for all frames: it keeps FFmpeg's scaling context, which each frame would otherwise make anew.
        self._scaler = VideoReformatter()

    def _close(self) -> None:
        self._container.close()

    def _read(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        if self._scan.distrust:
            yield from self._from_start(wanted)
            return
        for key, last, group in self._groups(wanted):
            left = set(group.tolist())
            for index, frame in self._from_key(key, last, left):
                left.discard(index)
                yield index, self._rgb(frame)
            if left:
                # The seek landed elsewhere, the keyframe was none, or the file is damaged: decoding it all tells.
                yield from self._from_start(np.array(sorted(left)))

    def _groups(self, wanted: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """(packet to start at, packet to stop after, frames) of each run of frames that share a way from a keyframe."""
        keys = np.flatnonzero(self._scan.keys)
        packets = self._scan.order[wanted]
        start = np.searchsorted(keys, packets, "right") - 1
        # A frame shown before the keyframe that precedes it (open GOP) is predicted from the group of pictures before.
        while (leading := (start > 0) & (self._scan.pts[keys[start]] > self._scan.pts[packets])).any():
            start = start - leading
        run: list[int] = []
        for at in np.argsort(packets, kind="stable"):
            # A keyframe that follows at once is not sought: decoding runs on into it.
            if run and keys[start[at]] > packets[run[-1]] + 1:
                yield int(keys[start[run]].min()), int(packets[run[-1]]), wanted[run]
                run = []
            run.append(at)
        if run:
            yield int(keys[start[run]].min()), int(packets[run[-1]]), wanted[run]

    def _from_key(self, key: int, last: int, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The wanted frames between packet `key` and packet `last`. Ends early at any damage or doubt."""
        scan, decoder = self._scan, self._stream.codec_context
        index_of = {int(scan.pts[scan.order[index]]): index for index in wanted}
        needed = {int(scan.order[index]) for index in wanted}
        # MP4 seeks in decoding time; other containers know only presentation time.
        stamps = scan.dts if scan.format.startswith("mov") else scan.pts
        try:
            self._container.seek(int(stamps[key]), stream=self._stream)
            at: int | None = None
            for packet in self._container.demux(self._stream):
                if at is None:
                    at = self._landing(packet.pts, key)
                    if at is None:
                        return
                if at not in needed and packet.size and self._is_spare(packet):
                    at += 1
                    continue
                # The last packet is followed by a flush: its frame need not wait for the ones after it.
                frames = decoder.decode(packet)
                if at == last and packet.size:
                    frames += decoder.decode(None)
                for frame in frames:
                    if frame.is_corrupt:
                        return  # frames predicted from it are wrong without a mark
                    if frame.pts in index_of:
                        yield index_of.pop(frame.pts), frame
                if at == last:
                    return
                at += 1
        except av.FFmpegError:
            return  # whatever is left is decoded from the start, which names the fault

    def _is_spare(self, packet: Packet) -> bool:
        """Whether no other frame is predicted from this H.264 packet: 4 in 10 of Kinetics, and a fifth of its time."""
        if not self._nal_length:
            return False
        data, at, pictures = memoryview(packet), 0, 0
        while at + self._nal_length < len(data):
            length = int.from_bytes(data[at : at + self._nal_length], "big")
            header = data[at + self._nal_length]
            kind, reference = header & 31, header >> 5 & 3
            if kind in (7, 8) or (1 <= kind <= 5 and reference):  # parameter sets serve later pictures too
                return False
            pictures += 1 <= kind <= 5
            at += self._nal_length + length
        return pictures > 0

    def _landing(self, pts: int | None, key: int) -> int | None:
        """The packet that a seek to `key` found, or None where decoding from it would not be right."""
        at = np.flatnonzero(self._scan.pts == pts) if pts is not None else np.zeros(0, np.int64)
        return int(at[0]) if len(at) and at[0] <= key and self._scan.keys[at[0]] else None

    def _from_start(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The same by decoding the whole way, which is right for every file. Errors: VideoError at any damage."""
        left, scan = set(wanted.tolist()), self._scan
        for index, frame in enumerate(decode_all(self._source)):
            if not isinstance(frame, VideoFrame) or frame.is_corrupt:
                raise VideoError(self._source.name, f"frame {index} of {self.info.frames} is damaged")
            if not scan.distrust and (index >= self.info.frames or frame.pts != scan.pts[scan.order[index]]):
                raise VideoError(self._source.name, f"frame {index} is not the one that its packet announced")
            if index in left:
                yield index, self._rgb(frame)
                left.discard(index)
            if not left:
                return

    def _rgb(self, frame: VideoFrame) -> np.ndarray:
        turned = self.info.rotation % 180 != 0
        width, height = (self.info.height, self.info.width) if turned else (self.info.width, self.info.height)
        rgb = self._scaler.reformat(frame, width, height, "rgb24", threads=1)
        plane = rgb.planes[0]
        image = np.ndarray((height, width, 3), np.uint8, buffer=memoryview(plane), strides=(plane.line_size, 3, 1))
        return np.rot90(image, -self.info.rotation // 90)


def _nal_length_size(stream: VideoStream) -> int:
    """Bytes before each unit of an H.264 packet that tell its length (MP4, Matroska), or 0 for other streams."""
    header = stream.codec_context.extradata or b""
    is_avcc = stream.codec_context.name == "h264" and len(header) > 6 and header[0] == 1
    return (header[4] & 3) + 1 if is_avcc else 0
