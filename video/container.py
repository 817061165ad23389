"""What the bytes of a container say about its own wholeness: FFmpeg reads past damage, or gives an error number for it.

Only headers of boxes (MP4) and elements (Matroska, WebM) are read, never pixels, so this costs microseconds a frame.
"""

from __future__ import annotations

import os
from typing import BinaryIO

_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp", b"sidx", b"uuid", b"emsg")
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675


def size_of(file: BinaryIO) -> int:
    """Length of `file` in bytes."""
    return file.seek(0, os.SEEK_END)


def why_unreadable(file: BinaryIO) -> str | None:
    """The human reason why FFmpeg found no video in `file`, or None where the bytes do not tell."""
    size = size_of(file)
    if size == 0:
        return "not a video: the file is empty"
    file.seek(0)
    head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "not a video: an HTML or XML page, probably the error page of a failed download"
    if not head.strip(b"\0"):
        return "not a video: it begins with nothing but zeros"
    if head[4:8] in _MP4_BOXES:
        return _why_mp4(file, size)
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return avi_fault(file) or "its AVI header is damaged"
    if head.startswith(_EBML):
        return matroska_fault(file) or "its Matroska header is damaged"
    return None


def _why_mp4(file: BinaryIO, size: int) -> str:
    boxes, end = _mp4_boxes(file, size)
    if b"moov" in boxes:
        return "the index (moov) is cut short" if boxes[-1] == b"moov" and end > size else "the index (moov) is damaged"
    if b"moof" in boxes:
        return "a media segment without its header: join it with its initialisation segment"
    return "the index (moov) is missing: the upload or download was cut short"


def _mp4_boxes(file: BinaryIO, size: int) -> tuple[list[bytes], int]:
    """The kinds of the top-level boxes, and where the last one says that it ends."""
    boxes: list[bytes] = []
    at = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        boxes.append(header[4:8])
        if length == 0:  # "to the end of the file"
            return boxes, size
        at += max(length, 8)
    return boxes, at


def avi_fault(file: BinaryIO) -> str | None:
    """Whether the RIFF chunk of an AVI promises more bytes than there are."""
    size = size_of(file)
    file.seek(4)
    promised = int.from_bytes(file.read(4), "little") + 8
    return f"cut short: {size:,} of {promised:,} bytes are there" if promised > size else None


def matroska_fault(file: BinaryIO) -> str | None:
    """Where a Matroska or WebM file is cut or overwritten, or None: FFmpeg skips over both without a word.

    Walks the elements of the segment and of its clusters; all others are stepped over by their size.
    """
    size = size_of(file)
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(12)
        id_length, length_length = _vint_length(head, 0), 0
        if 0 < id_length <= 4:
            length_length = _vint_length(head, id_length)
        if not length_length:
            return f"damaged at byte {at:,} of {size:,}"
        if len(head) < id_length + length_length:
            return f"cut short after {size:,} bytes, inside an element"
        kind = int.from_bytes(head[:id_length], "big")
        mask = (1 << 7 * length_length) - 1
        length = int.from_bytes(head[id_length : id_length + length_length], "big") & mask
        at += id_length + length_length
        unknown = length == mask  # a live recording: the size was not known when the header was written
        if not unknown and at + length > size:
            return f"cut short: {size:,} of {at + length:,} bytes are there"
        if kind not in (_SEGMENT, _CLUSTER):
            if unknown:
                return None  # nothing more can be told without the schema
            at += length
    return None


def _vint_length(data: bytes, at: int) -> int:
    """Bytes of the variable-length integer at `at` (1 to 8), or 0 where there is none."""
    return 9 - data[at].bit_length() if at < len(data) and data[at] else 0
