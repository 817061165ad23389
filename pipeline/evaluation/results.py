"""The results of an evaluation on the disk: `NAME.json` with the figures, and `NAME.parquet` with a row a video."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tubelet.datasets import ShardedSplit

from ..errors import ConfigError
from ..files import sync_folder, whole
from .metrics import TOP, as_targets, ranked
from .scoring import Scored


@dataclass(frozen=True)
class Results:
    """Of n videos, in the order of the split: keys; targets (n, classes) bool; scores (n, classes) float32, NaN of a
    video that could not be read; about: what was evaluated, how, and the names of the classes."""

    about: dict[str, Any]
    keys: list[str]
    targets: np.ndarray
    scores: np.ndarray
    clip_hits: np.ndarray
    causes: list[str | None]

    @classmethod
    def of(cls, scored: Scored, split: ShardedSplit, about: dict[str, Any]) -> Results:
        count, classes = len(split), len(split.classes)
        scores = np.full((count, classes), np.nan, np.float32)
        scores[scored.videos.index] = scored.videos.scores
        clip_hits = np.zeros((count, 2), np.int64)
        clip_hits[scored.videos.index] = scored.videos.clip_hits
        keys = [split.key(number) for number in range(count)]
        causes = [scored.unread.get(number) for number in range(count)]
        return cls(about, keys, as_targets(split.labels, classes), scores, clip_hits, causes)

    @property
    def classes(self) -> list[str]:
        return self.about["classes"]

    @property
    def averaged(self) -> str:
        """What of a video's clips was averaged."""
        return "sigmoid" if self.about["multilabel"] and self.about["average"] == "softmax" else self.about["average"]

    @property
    def read(self) -> np.ndarray:
        """(n,) bool."""
        return np.array([cause is None for cause in self.causes], bool)

    @property
    def predicted(self) -> np.ndarray:
        """(n,) int64; of a video that could not be read it means nothing."""
        return ranked(self.scores, 1)[:, 0]

    @property
    def right(self) -> np.ndarray:
        """(n,) bool: whether the predicted class is a label of the video."""
        return np.take_along_axis(self.targets, self.predicted[:, None], 1)[:, 0] & self.read


def write_table(results: Results, path: Path) -> None:
    """A row a video: key; label (of multi-label data labels); predicted and top5, classes by falling score; right;
    clip_top1 and clip_top5, of how many of its clips; scores, a number a class; unread, why there are no scores. The
    metadata of the schema has `about` under `tubelet`."""
    names, several = np.array(results.classes, object), results.about["multilabel"]
    labels = [names[target].tolist() for target in results.targets]
    top = [names[row].tolist() for row in ranked(results.scores, TOP)]
    gone = ~results.read
    scores = pa.FixedSizeListArray.from_arrays(
        pa.array(results.scores.reshape(-1)), results.scores.shape[1], mask=pa.array(gone)
    )
    columns: dict[str, tuple[pa.DataType, Any]] = {
        "key": (pa.string(), results.keys),
        **(
            {"labels": (pa.list_(pa.string()), labels)}
            if several
            else {"label": (pa.string(), [label[0] for label in labels])}
        ),
        "predicted": (pa.string(), _unless(gone, [row[0] for row in top])),
        "top5": (pa.list_(pa.string()), _unless(gone, top)),
        "right": (pa.bool_(), _unless(gone, results.right.tolist())),
        "clip_top1": (pa.int32(), _unless(gone, results.clip_hits[:, 0].tolist())),
        "clip_top5": (pa.int32(), _unless(gone, results.clip_hits[:, 1].tolist())),
        "scores": (scores.type, scores),
        "unread": (pa.string(), results.causes),
    }
    schema = pa.schema(
        [(name, kind) for name, (kind, _) in columns.items()], {"tubelet": json.dumps(results.about, default=str)}
    )
    with whole(path) as part:
        pq.write_table(pa.table([values for _, values in columns.values()], schema=schema), part)
    sync_folder(path.parent)


def _unless(gone: np.ndarray, values: list[Any]) -> list[Any]:
    return [None if lost else value for lost, value in zip(gone, values, strict=True)]


def read_results(file: Path) -> Results:
    """The results whose figures are in the JSON file `file`. Raises ConfigError where they cannot be read."""
    table_file = file.with_suffix(".parquet")
    try:
        table = pq.read_table(table_file)
        about = json.loads(table.schema.metadata[b"tubelet"])
        number = {name: place for place, name in enumerate(about["classes"])}
        labels = table["labels" if about["multilabel"] else "label"].to_pylist()
        targets = np.zeros((table.num_rows, len(number)), bool)
        for row, names in enumerate(labels):
            targets[row, [number[name] for name in (names if about["multilabel"] else [names])]] = True
        nothing = [float("nan")] * len(number)
        scores = np.array([row or nothing for row in table["scores"].to_pylist()], np.float32)
        hits = [table[name].fill_null(0).to_numpy() for name in ("clip_top1", "clip_top5")]
        keys, causes = table["key"].to_pylist(), table["unread"].to_pylist()
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ConfigError(
            f"{file}: has no results of `tubelet evaluate` ({table_file.name}: {' '.join(str(error).split())}). Give "
            "the .json that it wrote, with the .parquet beside it"
        ) from error
    return Results(about, keys, targets, scores, np.stack(hits, 1), causes)
