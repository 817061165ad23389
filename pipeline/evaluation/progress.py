"""What of an evaluation is done, on the disk, so that one that was killed goes on where it stopped."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tubelet.datasets import Journal

from ..cluster.distributed import World
from ..errors import ConfigError
from ..files import write_json
from .metrics import VideoScores
from .scoring import Scored

_ABOUT = "evaluation.json"


class Progress:
    """The batches that are scored, in a folder beside the results: a file of lines for each rank, of which only whole
    ones count. A context manager around the scoring; `done` is then what was scored before, on all ranks alike, and on
    any number of them. `finish` removes it.

    about: what the scores depend on. Where that of the folder is another, it is begun anew.
    Raises ConfigError, on all ranks, where nothing can be written.
    """

    def __init__(self, results: Path, about: dict[str, Any], world: World):
        self.folder = results.with_name(f".{results.stem}.unfinished")
        self.world = world
        self.done: dict[int, Scored] = {}
        found, fault = {}, None
        if world.is_main:
            try:
                found = self._begin(about)
            except OSError as error:
                fault = f"{results}: cannot be written ({error.strerror or error}). Give --out a file that can be"
        # Of the first rank only: the folder may be seen late, or not at all, from other machines.
        found, fault = world.gather((found, fault))[0]
        if fault is not None:
            raise ConfigError(fault)
        self.done = {number: _unpacked(packed) for number, packed in found.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self.folder, "scores", world.rank)

    def _begin(self, about: dict[str, Any]) -> dict[int, Any]:
        file = self.folder / _ABOUT
        known = _read(file)
        if self.folder.exists() and known != json.loads(json.dumps(about, default=str)):
            if known is not None:
                print(f"{self.folder}: was left by another evaluation, and is begun anew")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(file, about)
        return dict(Journal(self.folder, "scores", 0).read())

    def add(self, number: int, part: Scored) -> None:
        self._journal.add(number, _packed(part))

    def __enter__(self) -> Progress:
        self._journal.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._journal.__exit__(*error)

    def finish(self) -> None:
        """The results are written: what led to them is not needed any more."""
        if self.world.is_main:
            shutil.rmtree(self.folder)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _packed(part: Scored) -> dict[str, Any]:
    """Exact to the bit, as JSON."""
    videos = part.videos
    return {
        "index": videos.index.tolist(),
        "scores": base64.b64encode(videos.scores.astype("<f4").tobytes()).decode(),
        "classes": videos.scores.shape[1],
        "clip_hits": videos.clip_hits.tolist(),
        "clips": videos.clips,
        "unread": list(part.unread.items()),
    }


def _unpacked(packed: dict[str, Any]) -> Scored:
    index = np.array(packed["index"], np.int64)
    scores = np.frombuffer(base64.b64decode(packed["scores"]), "<f4").reshape(len(index), packed["classes"])
    clip_hits = np.array(packed["clip_hits"], np.int64).reshape(len(index), 2)
    return Scored(VideoScores(index, scores, clip_hits, packed["clips"]), dict(packed["unread"]))
