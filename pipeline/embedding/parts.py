"""What is stored: a folder of Parquet files, one for each part of the videos, and what made them.

EMBEDDINGS/_embedding.json        how they were made, and of which videos: what a run that goes on must agree with
EMBEDDINGS/part-00012.parquet     the rows of some videos, whole or not there
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tubelet.datasets import DataError, Videos

from ..errors import ConfigError, RunError
from ..files import sync_folder, write_json

PLAN_FILE = "_embedding.json"  # readers of Parquet folders pass over names that begin so
_UNREAD = b"tubelet.unread"
_PART_BYTES, _LEAST_BYTES = 256e6, 1e6
_PARTS = 64
_ROWS = 4096  # of a row group, which is all of a part that is in memory


def plan_parts(sizes: np.ndarray, part_mb: float | None = None) -> list[range]:
    """Runs of consecutive videos, of about `part_mb` MB each, or as many parts as keep machines busy: a function of the
    videos alone, so that any number of processes can go on with what another began."""
    limit = part_mb * 1e6 if part_mb else min(_PART_BYTES, max(_LEAST_BYTES, float(sizes.sum()) / _PARTS))
    parts, start, held = [], 0, 0.0
    for number, size in enumerate(sizes.tolist(), 1):
        held += size
        if held >= limit or number == len(sizes):
            parts.append(range(start, number))
            start, held = number, 0.0
    return parts


def part_file(out: Path, part: int) -> Path:
    return out / f"part-{part:05d}.parquet"


def begin(out: Path, plan: dict[str, Any]) -> None:
    """Makes the folder, or finds that it is one that this run may go on with. Raises ConfigError for any other."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file. Give --out a folder")
    file = out / PLAN_FILE
    try:
        out.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            _check_plan(out, json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(plan)))
        elif taken := sorted(path.name for path in out.glob("*.parquet")):
            raise ConfigError(f"{out}: already holds other Parquet files ({taken[0]}). Choose another --out")
        write_json(file, plan)
        for leftover in out.glob(".part-*.tmp"):
            leftover.unlink()
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}). Choose another --out") from error


def _check_plan(out: Path, was: dict[str, Any], now: dict[str, Any]) -> None:
    differing = sorted(key for key in {*was, *now} if was.get(key) != now.get(key))
    if differing:
        words = ", ".join(f"{key} was {_short(was.get(key))} and is now {_short(now.get(key))}" for key in differing)
        raise ConfigError(f"{out}: already holds embeddings that were made otherwise: {words}. Choose another --out")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else f"{text[:197]}..."


def schema_of(features: int, store: str, multilabel: bool, about: dict[str, Any]) -> pa.Schema:
    """key; split; label (null without one), or of videos with several a list of them; start and end in seconds of the
    file; vector. Metadata under `tubelet` says what made them."""
    kind = pa.float16() if store == "fp16" else pa.float32()
    columns = [
        ("key", pa.string()),
        ("split", pa.string()),
        ("labels", pa.list_(pa.string())) if multilabel else ("label", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("vector", pa.list_(kind, features)),
    ]
    return pa.schema(columns, metadata={"tubelet": json.dumps(about)})


class PartWriter:
    """The rows of one part, written under another name until they are all there."""

    def __init__(self, out: Path, part: int, videos: Videos, schema: pa.Schema):
        self._file = part_file(out, part)
        self._temporary = self._file.with_name(f".{self._file.stem}.tmp")
        self._videos, self._schema = videos, schema
        self._writer = pq.ParquetWriter(self._temporary, schema)
        self._waiting: list[tuple[int, float, float, np.ndarray]] = []
        self.unread: list[tuple[str, str]] = []
        self.rows = 0

    def add(self, video: int, start: float, end: float, vector: np.ndarray) -> None:
        self._waiting.append((video, start, end, vector))
        self.rows += 1
        if len(self._waiting) == _ROWS:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._writer.add_key_value_metadata({_UNREAD: json.dumps(self.unread)})
        self._writer.close()
        with self._temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(self._temporary, self._file)
        sync_folder(self._file.parent)

    def abandon(self) -> None:
        with suppress(OSError):
            self._writer.close()
            self._temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._waiting:
            return
        numbers, starts, ends, vectors = zip(*self._waiting, strict=True)
        self._waiting = []
        kind = self._schema.field("vector").type
        flat = np.stack(vectors).astype(kind.value_type.to_pandas_dtype())
        if not np.isfinite(flat).all():
            key = self._videos.key(numbers[int(np.flatnonzero(~np.isfinite(flat).all(1))[0])])
            beyond = "is beyond what fp16 can hold. Add --store fp32" if np.isfinite(np.stack(vectors)).all() else (
                "is no number: the network or its precision is at fault"
            )  # fmt: skip
            raise RunError(f"{key}: its vector {beyond}")
        named = [self._videos.labels(number) for number in numbers]
        several = "labels" in self._schema.names
        columns = [
            [self._videos.key(number) for number in numbers],
            [self._videos.split(number) for number in numbers],
            named if several else [labels[0] if labels else None for labels in named],
            starts,
            ends,
            pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1]),
        ]
        self._writer.write_table(pa.table(columns, schema=self._schema))


class Index:
    """Stored embeddings: `about`, what made them, and `files`, the parts. Raises DataError for a folder that is none,
    or not finished."""

    def __init__(self, folder: Path | None):
        if folder is None:
            raise ConfigError("no embeddings given. It takes the --out of `tubelet embed`")
        mend = "`tubelet embed --checkpoint RUN --data DIR --out FOLDER` makes such a folder"
        try:
            plan = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
            self.about, parts = plan["about"], plan["parts"]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder}: holds no embeddings of tubelet ({error}). {mend}") from error
        self.folder = folder
        self.files = [part_file(folder, part) for part in range(parts)]
        missing = [file.name for file in self.files if not file.is_file()]
        if missing:
            raise DataError(
                f"{folder}: {len(missing)} of {parts} parts are not there, the first is {missing[0]}. The command that "
                "made the others makes them too"
            )
        self.multilabel = "labels" in pq.read_schema(self.files[0]).names

    def batches(self, rows: int) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """At most `rows` rows at a time, and their vectors (rows, features) float32."""
        for file in self.files:
            try:
                with pq.ParquetFile(file) as parquet:
                    for batch in parquet.iter_batches(rows):
                        yield batch, vectors_of(batch)
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"{file}: cannot be read ({error}). Remove it, and run `tubelet embed` again"
                ) from error


def vectors_of(batch: pa.RecordBatch) -> np.ndarray:
    vectors = batch.column("vector")
    return vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1).astype(np.float32)


def counts(out: Path, parts: Sequence[int]) -> tuple[int, list[tuple[str, str]]]:
    """Rows of all parts, and (key, cause) of each video that is not in them."""
    rows, unread = 0, []
    for part in parts:
        about = pq.read_metadata(part_file(out, part))
        rows += about.num_rows
        unread += [tuple(each) for each in json.loads((about.metadata or {}).get(_UNREAD, b"[]"))]
    return rows, unread
