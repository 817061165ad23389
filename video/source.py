"""Where the bytes of a video are: a path, or bytes in memory."""

from __future__ import annotations

import io
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
class Source:
    """A video's bytes and the name it goes by in messages."""

    where: Path | bytes
    name: str

    @classmethod
    def of(cls, source: str | Path | bytes, name: str | None) -> Source:
        """Checks that a path leads to a file. Errors: VideoError."""
        if isinstance(source, (bytes, bytearray, memoryview)):
            return cls(bytes(source), name or f"<{len(source):,} bytes>")
        path = Path(source)
        if not path.is_file():
            raise VideoError(name or str(path), "it is a folder" if path.is_dir() else "no such file")
        # Absolute, because FFmpeg takes what stands before a colon in a relative name for a protocol.
        return cls(path.absolute(), name or str(path))

    def file(self) -> BinaryIO:
        return io.BytesIO(self.where) if isinstance(self.where, bytes) else self.where.open("rb")

    def container(self) -> InputContainer:
        """Opens it with FFmpeg. Errors: VideoError with the human cause."""
        target = io.BytesIO(self.where) if isinstance(self.where, bytes) else str(self.where)
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
