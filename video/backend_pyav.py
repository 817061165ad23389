"""PyAV (FFmpeg): the default decoder, and the one that is right on every file it opens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import av
import numpy as np
import torch
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .errors import VideoError
from .pixels import Pixels
from .reader import VideoReader
from .scan import video_stream, whole_frames
from .source import Source
from .table import Scan
from .transforms import Box, check_box

# FFmpeg's decoders look at some bytes past the end of a packet.
_PADDING = bytes(64)
_PIECE = 1 << 23  # bytes of packets that are read at once


class PyAVReader(VideoReader):
    """Decodes from the keyframe at or before each wanted frame to the last one wanted, and nothing else.

    The packets in between are taken out of the file where the scan says they lie, so that no container is opened and no
    other byte read; where that cannot be, `fallback` says why and the container is sought.
    """

    backend = "pyav"

    def __init__(self, source: Source, scan: Scan, fallback: str | None = None) -> None:
        super().__init__(source, scan, fallback or scan.distrust or scan.detour)
        self._pixels = Pixels(scan.info.height, scan.info.width, scan.info.rotation)
        self._sought: tuple[InputContainer, VideoStream] | None = None

    def crops(
        self, indices: Sequence[int] | np.ndarray, boxes: Sequence[Box], size: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        clips = self._room(indices, boxes, size, out)
        slots = clips.numpy()
        for places, frame in self._each(indices):
            for clip, box in zip(slots, boxes, strict=True):
                image = self._pixels.crop(frame, box, size)
                for place in places:
                    clip[place] = image
        return clips

    def stream(self, indices: np.ndarray, box: Box, size: int) -> Iterator[np.ndarray]:
        check_box(box, self.info.height, self.info.width)
        done = 0
        for (place, *_), frame in self._each(indices):
            if place != done:  # a frame is missing on the way: those that follow would pile up until it is found
                break
            yield self._pixels.crop(frame, box, size).copy()
            done += 1
        if done < len(indices):
            self.fallback = "frames are missing on the way from their keyframe"
            for _, frame in self._from_start(np.asarray(indices)[done:]):
                yield self._pixels.crop(frame, box, size).copy()

    def _rgb(self, picture: VideoFrame) -> np.ndarray:
        return self._pixels.rgb(picture)

    def _close(self) -> None:
        if self._sought is not None:
            self._sought[0].close()

    def _read(self, wanted: np.ndarray) -> Iterator[tuple[int, VideoFrame]]:
        if self._scan.distrust:
            yield from self._from_start(wanted)
            return
        for key, last, group in self._groups(wanted):
            left = set(group.tolist())
            for index, frame in self._from_key(key, last, left):
                left.discard(index)
                yield index, frame
            if left:
                # The seek landed elsewhere, the keyframe was none, or the file is damaged: decoding it all tells.
                self.fallback = "frames are missing on the way from their keyframe"
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
        scan = self._scan
        index_of = {int(scan.pts[scan.order[index]]): index for index in wanted}
        sent = ~scan.spare[key : last + 1]
        sent[scan.order[list(wanted)] - key] = True
        decoder, packets = self._packets(key, last, sent)
        try:
            for packet in packets:
                for frame in decoder.decode(packet):
                    if frame.is_corrupt:
                        return  # frames predicted from it are wrong without a mark
                    if frame.pts in index_of:
                        yield index_of.pop(frame.pts), frame
        except av.FFmpegError:
            return  # whatever is left is decoded from the start, which names the fault

    def _packets(self, key: int, last: int, sent: np.ndarray) -> tuple[VideoCodecContext, Iterator[Packet | None]]:
        """A decoder, and those of the packets `key` to `last` that are to be sent to it. A flush follows the last: its
        frame need not wait for the ones after it."""
        if self._scan.detour is None:
            return self._scan.decoder.open(), self._taken_out(key, last, sent)
        if self._sought is None:
            container = self._source.container()
            self._sought = container, video_stream(container, self._source.name)
        container, stream = self._sought
        return stream.codec_context, self._sought_out(container, stream, key, last, sent)

    def _taken_out(self, key: int, last: int, sent: np.ndarray) -> Iterator[Packet | None]:
        scan = self._scan
        ats = np.flatnonzero(sent)
        starts, ends = scan.starts[key + ats], scan.starts[key + ats] + scan.sizes[key + ats]
        # In pieces, so that a long video is never in memory whole.
        for piece in np.split(np.arange(len(ats)), np.flatnonzero(np.diff(np.cumsum(ends - starts) // _PIECE)) + 1):
            first = int(starts[piece].min())
            data = memoryview(self._source.bytes_between(first, int(ends[piece].max())) + _PADDING)
            for at in piece.tolist():
                # Any buffer will do, and is not copied.
                packet = Packet(data[int(starts[at]) - first : int(ends[at]) - first])  # type: ignore[arg-type]
                number = key + int(ats[at])
                packet.pts, packet.dts = int(scan.pts[number]), int(scan.dts[number])
                yield packet
        yield None

    def _sought_out(
        self, container: InputContainer, stream: VideoStream, key: int, last: int, sent: np.ndarray
    ) -> Iterator[Packet | None]:
        scan = self._scan
        # MP4 seeks in decoding time; other containers know only presentation time.
        stamps = scan.dts if scan.format.startswith("mov") else scan.pts
        container.seek(int(stamps[key]), stream=stream)
        at: int | None = None
        for packet in container.demux(stream):
            at = self._landing(packet.pts, key) if at is None else at + 1
            if at is None or not packet.size:
                return
            if at < key or sent[at - key]:
                yield packet
            if at == last:
                yield None
                return

    def _landing(self, pts: int | None, key: int) -> int | None:
        """The packet that a seek to `key` found, or None where decoding from it would not be right."""
        at = np.flatnonzero(self._scan.pts == pts) if pts is not None else np.zeros(0, np.int64)
        return int(at[0]) if len(at) and at[0] <= key and self._scan.keys[at[0]] else None

    def _from_start(self, wanted: np.ndarray) -> Iterator[tuple[int, VideoFrame]]:
        """The same by decoding the whole way, which is right for every file. Errors: VideoError at any damage."""
        left, scan = set(wanted.tolist()), self._scan
        for index, frame in enumerate(whole_frames(self._source, self.info.frames)):
            if not scan.distrust and (index >= self.info.frames or frame.pts != scan.pts[scan.order[index]]):
                raise VideoError(self._source.name, f"frame {index} is not the one that its packet announced")
            if index in left:
                yield index, frame
                left.discard(index)
            if not left:
                return
