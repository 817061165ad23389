"""The index beside a shard: where each video lies in the tar and what a reader wants to know before opening it.

`name-train-000000.tar` has `name-train-000000.index.arrow`, an uncompressed Arrow IPC file of one row per video. It is
written by reading the finished tar back, so that it describes what is there and not what was meant, and read through
the memory map: opening it costs the same for any number of videos, and processes share its pages.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tubelet.video import Scan, Span, VideoError, scan_video

from ..errors import DataError
from .samples import LeftOut, Place, Sample, checksum_before, read_samples

INDEX_VERSION = 3
INDEX_SUFFIX = ".index.arrow"
_VERSION_KEY, _SHARD_KEY = b"tubelet.index_version", b"tubelet.shard"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("labels", pa.list_(pa.int32())),  # one, none, or, in multi-label data, any number; null: the tar has none
        ("names", pa.list_(pa.string())),  # of its classes, in the order of labels; null: the tar has none
        ("text", pa.string()),  # of key.txt: the name of a class or a caption
        ("suffix", pa.string()),  # "mp4", "webm", ...
        ("offset", pa.int64()),  # of the video's first byte in the tar
        ("size", pa.int64()),  # bytes
        ("header", pa.uint32()),  # CRC-32 of the tar's header before it, which tells whether this tar is the one
        ("start_frame", pa.int32()),  # the video is the frames start_frame <= i < end_frame of the file
        ("end_frame", pa.int32()),
        ("start", pa.float64()),  # seconds, as the annotations say; null where they say nothing
        ("end", pa.float64()),
        ("frames", pa.int32()),  # true count of the whole file, in presentation order
        ("rate", pa.float64()),  # average frames per second
        ("duration", pa.float64()),  # seconds
        ("height", pa.int32()),  # after rotation
        ("width", pa.int32()),
        ("rotation", pa.int16()),  # degrees clockwise
        ("codec", pa.string()),
        ("scan", pa.large_binary()),  # Scan.pack(): which packet makes which frame
    ]
)
Scanner = Callable[[Path, Sequence[Sample]], Iterable[Scan | str]]


@dataclass(frozen=True)
class Index:
    """table: as SCHEMA; bytes, sha256: of the tar it was written from; left_out: samples that are not in the table."""

    table: pa.Table
    bytes: int
    sha256: str
    left_out: list[LeftOut]


def index_path(shard: Path) -> Path:
    return shard.with_suffix(INDEX_SUFFIX)


def belongs(index: Index, shard: Path) -> bool:
    """Whether the shard is, by its size and the headers of its videos, the one that the index was written from, and
    each scan can be read."""
    if shard.stat().st_size != index.bytes:
        return False
    try:
        for packed in index.table["scan"]:
            Scan.unpack(packed.as_py())
    except ValueError:
        return False
    columns = (index.table[name].to_numpy() for name in ("offset", "size", "header"))
    places = map(Place, *(column.tolist() for column in columns))
    with shard.open("rb", buffering=0) as file:
        return all(checksum_before(file, place.offset) == place.header for place in places)


def scan_here(shard: Path, samples: Sequence[Sample]) -> Iterator[Scan | str]:
    """The scan of each sample's video, or why there is none."""
    for sample in samples:
        try:
            yield scan_video(Span(shard, sample.place.offset, sample.place.size), name=sample.key)
        except VideoError as error:
            yield error.cause


def write_index(shard: Path, scan: Scanner = scan_here) -> Index:
    """Reads a finished tar, ours or another's (see samples.py), and writes its index beside it, in one step.

    A video that cannot be scanned is left out with the cause that `scan` gives instead.
    Raises DataError for what is no whole tar, OSError where the index cannot be written.
    """
    samples, left_out = read_samples(shard)
    rows = []
    for sample, outcome in zip(samples, scan(shard, samples), strict=True):
        row = outcome if isinstance(outcome, str) else _row(sample, outcome)
        if isinstance(row, str):
            left_out.append(LeftOut(sample.key, row))
        else:
            rows.append(row)
    with shard.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        about = {"bytes": file.tell(), "sha256": digest.hexdigest(), "left_out": left_out}
    metadata = {_VERSION_KEY: str(INDEX_VERSION), _SHARD_KEY: json.dumps(about)}
    _write(pa.Table.from_pylist(rows, SCHEMA.with_metadata(metadata)), index_path(shard))
    return read_index(shard)


def _row(sample: Sample, scan: Scan) -> dict[str, Any] | str:
    """The row of a video, or why it has none."""
    about = sample.about
    first, after = about.frames or (0, scan.info.frames)
    if not 0 <= first < after <= scan.info.frames:
        return f"it is to be the frames from {first} up to {after} of a file that has {scan.info.frames}"
    return {
        **sample.place._asdict(),
        **{"key": sample.key, "suffix": sample.suffix, "start_frame": first, "end_frame": after},
        **{name: getattr(about, name) for name in ("labels", "names", "text", "start", "end")},
        **asdict(scan.info),
        "scan": scan.pack(),
    }


def _write(table: pa.Table, file: Path) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            with pa.ipc.new_file(handle, table.schema) as writer:
                writer.write_table(table)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def read_index(shard: Path) -> Index:
    """The index of a shard. Raises DataError when it is missing, damaged or of another version."""
    file = index_path(shard)
    anew = f"`tubelet index {shard.parent}` writes it anew"
    if not file.is_file():
        old = shard.with_suffix(".index.parquet").is_file()
        cause = "the shard has an index of an older tubelet" if old else "the shard's index is missing"
        raise DataError(f"{file}: {cause}. `tubelet index {shard.parent}` writes it; the shards stay as they are")
    try:
        with pa.memory_map(str(file)) as handle:  # the table keeps the map, not the file, open
            table = pa.ipc.open_file(handle).read_all()
        table.validate()
        metadata = table.schema.metadata or {}
        if (version := metadata.get(_VERSION_KEY, b"none").decode()) != str(INDEX_VERSION):
            raise DataError(f"{file}: the index is of version {version}, this tubelet reads {INDEX_VERSION}. {anew}")
        about = json.loads(metadata[_SHARD_KEY])
        left_out = [LeftOut(*each) for each in about["left_out"]]
        if not table.schema.equals(SCHEMA):
            raise ValueError("its columns are others")
        return Index(table, about["bytes"], about["sha256"], left_out)
    except DataError:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: the index cannot be read ({error}). {anew}") from error
