"""Shards: which video is in which, and writing each of them whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from ..errors import DataError
from ..manifest import SPLITS
from ..processes.disk import sync
from ..processes.parallel import Crew, Task, do_all
from ..shards.card import Shard, Split
from ..shards.index import index_path, read_index, write_index
from .checking import Checked


@dataclass(frozen=True)
class Planned:
    """A shard to be: its file, its split, and its videos in order."""

    path: Path
    split: str
    videos: list[Checked]

    @property
    def bytes(self) -> int:
        return sum(video.bytes for video in self.videos)


def plan_shards(videos: Sequence[Checked], out: Path, name: str, shard_mb: float, seed: int) -> list[Planned]:
    """The videos of each split in a seeded order, cut into shards of about `shard_mb`."""
    shards = []
    for number, split in enumerate(SPLITS):
        members = [video for video in videos if video.video.split == split]
        order = np.random.default_rng([seed, number]).permutation(len(members))
        parts: list[list[Checked]] = []
        size = float("inf")
        for at in order:
            if size + members[at].bytes > shard_mb * 1e6:
                parts.append([])
                size = 0.0
            parts[-1].append(members[at])
            size += members[at].bytes
        shards += [Planned(out / f"{name}-{split}-{at:06d}.tar", split, part) for at, part in enumerate(parts)]
    return shards


def write_shards(shards: Sequence[Planned], classes: Sequence[str], crew: Crew) -> dict[str, Shard]:
    """Writes those that are not there. Returns all by their file's name.

    `crew.folder` is where they are made: in the folder of a dataset there are only whole ones with their index.
    """
    mark = f"shards-of-rank-{crew.ranks.rank}-"
    _remove(crew.folder, mark)  # what a kill has left
    numbers = {label: number for number, label in enumerate(classes)}
    task = Task("writing", partial(_write, numbers, crew.folder, mark), _failed, videos=lambda shard: len(shard.videos))
    try:
        return {shard.path.name: Shard(**result) for shard, result in do_all(task, shards, crew)}
    finally:
        _remove(crew.folder, mark)  # what workers that were stopped have left


def _remove(folder: Path, mark: str) -> None:
    for left in folder.glob(f"{mark}*"):
        shutil.rmtree(left)


def _failed(shard: Planned, error: Exception) -> Any:
    if isinstance(error, OSError | DataError):
        raise error
    raise DataError(f"{shard.path}: writing it failed ({error}). Start the same command again: it goes on") from error


def splits_of(
    shards: Sequence[Planned], written: dict[str, Shard], classes: Sequence[str], listed: dict[str | None, int]
) -> dict[str, Split]:
    """What the card says of each split that has videos. listed: how many the manifest has."""
    splits = {}
    for name in SPLITS:
        if planned := [shard for shard in shards if shard.split == name]:
            counts = Counter(label for shard in planned for member in shard.videos for label in member.video.labels)
            per_class = {label: counts[label] for label in classes if counts[label]}
            files = [written[shard.path.name] for shard in planned]
            splits[name] = Split(sum(file.videos for file in files), listed[name], per_class, files)
    return splits


def _write(numbers: dict[str, int], folder: Path, mark: str, shard: Planned) -> dict[str, Any]:
    """Makes one shard, unless it is there: then it was made just before a kill. Its re-encoded videos go."""
    if not shard.path.exists():
        with tempfile.TemporaryDirectory(prefix=mark, dir=folder) as place:
            tar = Path(place) / shard.path.name
            _write_tar(tar, shard.videos, numbers)
            write_index(tar)
            for file, final in ((index_path(tar), index_path(shard.path)), (tar, shard.path)):
                sync(file)
                os.replace(file, final)  # the tar last: what has a tar has an index
            sync(shard.path)
    for member in shard.videos:
        if member.file != member.video.path:
            member.file.unlink(missing_ok=True)
    index = read_index(shard.path)
    return asdict(Shard(shard.path.name, len(shard.videos), index.bytes, index.sha256))


def _write_tar(path: Path, members: Sequence[Checked], numbers: dict[str, int]) -> None:
    with (
        path.open("wb") as handle,
        # Fixed times and names: the same videos and seed give the same bytes.
        webdataset.TarWriter(handle, encoder=False, mtime=0, mode=0o644, format="PAX_FORMAT") as tar,
    ):
        for member in members:
            video = member.video
            data = member.file.read_bytes()
            if len(data) != member.bytes:
                raise DataError(f"{member.file}: has changed since it was checked. Prepare again with --overwrite")
            about = {
                "labels": [numbers[label] for label in video.labels],
                "classes": video.labels,
                "start": video.start,
                "end": video.end,
                "start_frame": member.start_frame,
                "end_frame": member.end_frame,
            }
            suffix = member.file.suffix.lstrip(".").lower() or "video"
            payload = json.dumps({**about, **asdict(member.info)}).encode()
            tar.write({"__key__": video.key, suffix: data, "json": payload})
