"""The index beside a shard: where each video lies in the tar and what a reader wants to know before opening it.

`name-train-000000.tar` has `name-train-000000.index.parquet`, one row per video. It is written by reading the
finished tar back, so that it describes what is there and not what was meant. The tar itself stays plain WebDataset.
"""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import DataError

INDEX_VERSION = 2
_VERSION_KEY = b"tubelet.index_version"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("labels", pa.list_(pa.int32())),  # one, none, or, in multi-label data, any number
        ("suffix", pa.string()),  # "mp4", "webm", ...
        ("offset", pa.int64()),  # of the video's first byte in the tar
        ("size", pa.int64()),  # bytes
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
    ],
    metadata={_VERSION_KEY: str(INDEX_VERSION).encode()},
)
_FROM_TAR = ("key", "suffix", "offset", "size")
_FROM_JSON = tuple(name for name in SCHEMA.names if name not in _FROM_TAR)


def index_path(shard: Path) -> Path:
    return shard.with_suffix(".index.parquet")


def write_index(shard: Path) -> None:
    """Reads `shard` (pairs `key.<suffix>`, `key.json` with the fields of SCHEMA) and writes its index beside it."""
    videos: dict[str, dict] = {}
    about: dict[str, dict] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            head, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            key = f"{head}/{stem}" if head else stem
            if suffix == "json":
                handle = tar.extractfile(member)
                about[key] = json.load(handle) if handle else {}
            else:
                videos[key] = {"key": key, "suffix": suffix, "offset": member.offset_data, "size": member.size}
    rows = [{**place, **{name: about[key][name] for name in _FROM_JSON}} for key, place in videos.items()]
    temporary = shard.with_suffix(".index.tmp")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)
    os.replace(temporary, index_path(shard))


def read_index(shard: Path) -> pa.Table:
    """The index of a shard. Raises DataError when it is missing, damaged or of another version."""
    file = index_path(shard)
    if not file.is_file():
        raise DataError(f"{file}: the shard's index is missing. Prepare the dataset again, or copy it whole")
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: the index cannot be read ({error}). Prepare the dataset again") from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version != str(INDEX_VERSION):
        raise DataError(
            f"{file}: written in version {version} of the index, and this tubelet reads version {INDEX_VERSION}. "
            "Prepare the dataset again with this tubelet, or install the one that wrote it"
        )
    return table
