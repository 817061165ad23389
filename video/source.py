"""Where the bytes of a video are: a path, a span of a larger file such as a shard, or bytes in memory."""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer

from .container import why_unreadable
from .errors import VideoError


@dataclass(frozen=True)
class Span:
    """`size` bytes of the file `path` from byte `offset` on: a video inside a tar."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Source:
    """A video's bytes and the name it goes by in messages."""

    where: Path | Span | bytes
    name: str

    @classmethod
    def of(cls, source: str | Path | Span | bytes, name: str | None) -> Source:
        """Checks that a path leads to a file. Errors: VideoError."""
        if isinstance(source, (bytes, bytearray, memoryview)):
            return cls(bytes(source), name or f"<{len(source):,} bytes>")
        if isinstance(source, Span):
            return cls(source, name or f"{source.path}, byte {source.offset}")
        path = Path(source)
        if not path.is_file():
            raise VideoError(name or str(path), "it is a folder" if path.is_dir() else "no such file")
        # Absolute, because FFmpeg takes what stands before a colon in a relative name for a protocol.
        return cls(path.absolute(), name or str(path))

    def bytes_between(self, start: int, end: int) -> bytes:
        """The bytes start <= i < end of the video. Errors: VideoError where it has fewer."""
        if isinstance(self.where, bytes):
            data = self.where[start:end]
        else:
            path, offset = (self.where.path, self.where.offset) if isinstance(self.where, Span) else (self.where, 0)
            try:
                with path.open("rb", buffering=0) as file:
                    file.seek(offset + start)
                    data = file.read(end - start)
            except OSError as error:
                raise VideoError(self.name, f"{path} cannot be read ({error})") from error
        if len(data) != end - start:
            raise VideoError(self.name, "its file ends before the video does: it was cut short")
        return data

    def file(self) -> BinaryIO:
        if isinstance(self.where, Path):
            return self.where.open("rb")
        return io.BytesIO(self.whole())  # type: ignore[arg-type]  # no path, so bytes

    @contextmanager
    def mapped(self) -> Iterator[bytes | mmap.mmap]:
        """The bytes of the video, those of a file mapped into memory."""
        if not isinstance(self.where, Path):
            yield self.whole()  # type: ignore[misc]  # no path, so bytes
            return
        with self.where.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data

    def whole(self) -> Path | bytes:
        """A path to the video and nothing else, or its bytes. Errors: VideoError where a span cannot be read."""
        return self.bytes_between(0, self.where.size) if isinstance(self.where, Span) else self.where

    def container(self) -> InputContainer:
        """Opens it with FFmpeg. Errors: VideoError with the human cause."""
        where = self.whole()
        target = io.BytesIO(where) if isinstance(where, bytes) else str(where)
        try:
            # A playlist that poses as a video must not make FFmpeg fetch from the network. Titles come in any encoding.
            container = av.open(target, "r", options={"protocol_whitelist": "file"}, metadata_errors="replace")
        except av.FFmpegError as error:
            cause = self._why_unreadable() or f"not a video: FFmpeg knows no such format ({error.strerror})"
            raise VideoError(self.name, cause) from error
        if not len(container.streams):
            container.close()
            raise VideoError(self.name, self._why_unreadable() or "no video stream: the container is empty")
        return container

    def _why_unreadable(self) -> str | None:
        with self.file() as file:
            return why_unreadable(file)

    @contextmanager
    def reading(self, doing: str) -> Iterator[None]:
        """Turns an error of FFmpeg into a VideoError that says what was being done."""
        try:
            yield
        except av.FFmpegError as error:
            raise VideoError(self.name, f"{doing}: {error.strerror}") from error
