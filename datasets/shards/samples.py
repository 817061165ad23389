"""What a tar holds, sample by sample: a video and what stands beside it about it, in our shards and in those of others.

Members belong together as in WebDataset: what a name has before the first dot of its last part, folders included, is
the key, and the rest the suffix. Nothing of a tar is ever unpacked; a member is a place in the file.
"""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import DataError

BLOCK = 512  # bytes of a tar's unit; the header of a member is the one before its first byte
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_VIDEO_SUFFIXES = frozenset(
    ["mp4", "m4v", "mov", "webm", "mkv", "avi", "mpg", "mpeg", "ts", "m2ts", "wmv", "flv", "ogv", "3gp", "mxf"]
)
_ABOUT = ("json", "cls", "txt")
_LARGEST_LABEL = 2**31 - 1


class LeftOut(NamedTuple):
    """A sample that is not in the index, and why."""

    key: str
    cause: str


class Place(NamedTuple):
    """A member of a tar: where its bytes are, and the checksum (CRC-32) of its header, which tells it from others."""

    offset: int
    size: int
    header: int


@dataclass(frozen=True)
class About:
    """What a tar says of a video.

    labels: numbers of its classes, names: their names; None where it says nothing, empty where it says that there are
    none. text: of `key.txt`, the name of a class or a caption. start, end: seconds, for the record. frames: which
    frames of the file first <= i < after are the video, None for all.
    """

    labels: list[int] | None = None
    names: list[str] | None = None
    text: str | None = None
    start: float | None = None
    end: float | None = None
    frames: tuple[int, int] | None = None


@dataclass(frozen=True)
class Sample:
    """suffix: of the video, such as "mp4"."""

    key: str
    suffix: str
    place: Place
    about: About


class _Unusable(Exception):
    """Why a sample cannot be used."""


def read_samples(shard: Path) -> tuple[list[Sample], list[LeftOut]]:
    """The samples of a tar that have a video, and those that cannot be used. Raises DataError for what is no tar, or
    not a whole one."""
    samples: list[Sample] = []
    left_out: list[LeftOut] = []
    try:
        with shard.open("rb") as file:
            for key, members in _members(shard, file).items():
                try:
                    samples.append(_sample(key, members, file))
                except _Unusable as cause:
                    left_out.append(LeftOut(key, str(cause)))
    except OSError as error:
        raise DataError(f"{shard}: the shard cannot be read ({error.strerror or error})") from error
    return samples, left_out


def _members(shard: Path, file: BinaryIO) -> dict[str, dict[str, Place | None]]:
    """Places of the members by key and suffix, None for one whose bytes do not lie in one piece, or that stands twice:
    which of the two is meant, nobody knows."""
    members: dict[str, dict[str, Place | None]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isreg() and (name := _NAME.fullmatch(member.name)):
                    key, suffix = name[1], name[2].lower()
                    place = Place(member.offset_data, member.size, checksum_before(file, member.offset_data))
                    parts = members.setdefault(key, {})
                    parts[suffix] = None if member.issparse() or suffix in parts else place
            end = tar.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        cause = "is compressed: unpack it first" if _is_compressed(file) else f"is no tar, or cut short ({error})"
        raise DataError(f"{shard}: {cause}") from error
    file.seek(end)
    if file.read(BLOCK) != bytes(BLOCK):  # tarfile takes damage and a missing end for the end
        raise DataError(
            f"{shard}: the tar is cut short or damaged after byte {end:,}: it has no end mark there. Copy it again, or "
            "make it again"
        )
    return members


def checksum_before(file: BinaryIO, offset: int) -> int:
    """The checksum of the header before the member at `offset`, as in Place."""
    file.seek(offset - BLOCK)
    return zlib.crc32(file.read(BLOCK))


def _is_compressed(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


def _sample(key: str, members: dict[str, Place | None], file: BinaryIO) -> Sample:
    about = _about(members, file)
    others = [suffix for suffix in members if suffix not in _ABOUT]
    # Our own shards hold what was checked to be a video, whatever its suffix.
    videos = [name for name in others if about.frames or name.rpartition(".")[2] in _VIDEO_SUFFIXES]
    if len(videos) != 1:
        what = f"{len(videos)} videos ({', '.join(videos)})" if videos else f"no video, only {', '.join(members)}"
        raise _Unusable(f"it has {what}")
    return Sample(key, videos[0], _place(members, videos[0]), about)


def _place(members: dict[str, Place | None], suffix: str) -> Place:
    if (place := members[suffix]) is None:
        raise _Unusable(f"its .{suffix} stands twice in the tar, or is stored as a sparse file")
    return place


def _about(members: dict[str, Place | None], file: BinaryIO) -> About:
    """From `key.json` of ours, else labels from `key.cls`, else from another `key.json`; text from `key.txt`."""

    def read(suffix: str) -> str | None:
        if suffix not in members:
            return None
        place = _place(members, suffix)
        file.seek(place.offset)
        try:
            return file.read(place.size).decode()
        except UnicodeDecodeError as error:
            raise _Unusable(f"its .{suffix} is not UTF-8") from error

    content = _json(read("json"))
    if "start_frame" in content:
        return _ours(content)
    number = (read("cls") or "").strip()
    if number:
        labels, names = _labels(int(number) if re.fullmatch(r"-?\d+", number) else number, "cls")
    else:
        given = next((content[name] for name in ("labels", "label", "cls") if name in content), None)
        labels, names = _labels(given, "json")
    return About(labels, names, (read("txt") or "").strip() or None)


def _json(text: str | None) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise _Unusable(f"its .json cannot be read ({error})") from error
    return content if isinstance(content, dict) else {}


def _ours(content: dict[str, Any]) -> About:
    try:
        labels, _ = _labels(content["labels"], "json")
        frames = int(content["start_frame"]), int(content["end_frame"])
        return About(labels, content["classes"], None, content["start"], content["end"], frames)
    except (KeyError, TypeError, ValueError) as error:
        raise _Unusable(f"its .json is incomplete ({error!r})") from error


def _labels(given: Any, where: str) -> tuple[list[int] | None, list[str] | None]:
    """(numbers, names) of one label or of a list of them; -1 stands for none."""
    if given is None:
        return None, None
    several = given if isinstance(given, list) else [] if given == -1 else [given]
    if all(isinstance(label, str) for label in several) and several:
        return None, several
    if all(type(label) is int and 0 <= label <= _LARGEST_LABEL for label in several):
        return several, None
    raise _Unusable(f"the label in its .{where} is neither a class number nor a name: {given!r:.60}")
