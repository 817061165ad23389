"""From files to a dataset: each video checked under a deadline, split, and written to WebDataset shards with an index.

out/card.json                          classes, counts, splits, checksums; written last
out/report.json                        the files left out, each with its cause
out/<name>-train-000000.tar            key.mp4 (or webm, avi, mkv: the bytes as they were) and key.json
out/<name>-train-000000.index.parquet  byte offsets, true frame counts, rates, sizes, codecs
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as DeadlineError
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import webdataset
from pebble import ProcessExpired, ProcessPool
from pydantic import Field
from tqdm import tqdm

from tubelet.video import VideoError, VideoInfo, probe

from .card import CARD_FILE, Card, Shard, Split, write_card
from .errors import DataError
from .index import write_index
from .manifest import SPLITS, Video, assign_splits, videos_in_csv, videos_in_folder

REPORT_FILE = "report.json"


@dataclass(frozen=True)
class PrepareConfig:
    out: Path | None = None
    """Folder for the shards, the card and the report. Must be new or empty, unless --overwrite."""
    videos: Path | None = None
    """Folder with one subfolder per class; or train/, val/ and test/ of such; or the videos themselves, without
    labels; or the folder that the paths of --labels start from."""
    labels: Path | None = None
    """CSV with a header and the columns path,label and optionally split (train, val or test)."""
    name: str | None = None
    """Name of the dataset, which its shards start with (default: the name of --out)."""
    split: str = "0.2"
    """Where the data brings no split: the share of each class held out for validation, or the name of the one split
    (train, val or test) that all videos go to."""
    check: Literal["decode", "packets"] = "decode"
    """How each video is checked: decode every frame (finds damage), or count its packets only (much faster)."""
    max_bad: str = "1%"
    """Videos that may be bad before the command fails: a number, or a share in percent. The shards are written in
    any case."""
    deadline: Annotated[float, Field(gt=0)] = 120.0
    """Seconds a file may take to be checked; then it is reported and left out."""
    shard_mb: Annotated[float, Field(gt=0)] = 256.0
    """Size at which a shard is closed, in MB."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that check and write (0: one per core)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the split and the order of the videos in the shards."""
    overwrite: bool = False
    """Replace a dataset that is already in --out."""


@dataclass(frozen=True)
class Checked:
    """A video that will be in a shard: what the manifest says of it and what its bytes say."""

    video: Video
    info: VideoInfo


def prepare(config: PrepareConfig) -> Card:
    """Makes a dataset as `config` says. Returns its card.

    Raises DataError when the input or output cannot be used, when no video is good, or, after everything has been
    written, when more videos are bad than `config.max_bad` allows.
    """
    if config.out is None or (config.videos is None and config.labels is None):
        raise DataError(
            "nothing to prepare. Give a folder of classes and a place for the shards: "
            "tubelet prepare --videos FOLDER --out DIR"
        )
    _check_split_argument(config.split)
    if config.labels is not None:
        videos = videos_in_csv(config.labels, config.videos)
    else:
        videos = videos_in_folder(config.videos)  # type: ignore[arg-type]  # one of the two is given
    allowed = _allowed_bad(config.max_bad, len(videos))
    out = _empty_folder(config.out, config.overwrite)

    good, bad = _check_all(videos, config)
    (out / REPORT_FILE).write_text(json.dumps({"videos": len(videos), "good": len(good), "bad": bad}, indent=1))
    _print_bad(bad, len(videos), out)
    if not good:
        raise DataError(f"{config.videos or config.labels}: none of {len(videos)} files is a video that can be read")
    card = _write_dataset(good, config, out)
    if len(bad) > allowed:
        raise DataError(
            f"{len(bad)} of {len(videos)} files are bad, more than --max-bad {config.max_bad}. The others are in "
            f"{out}; {out / REPORT_FILE} names each bad one. Mend them and prepare again, or allow them with --max-bad"
        )
    return card


def _check_split_argument(split: str) -> None:
    if split in SPLITS:
        return
    try:
        if 0 <= float(split) < 1:
            return
    except ValueError:
        pass
    raise DataError(f"--split {split}: give a share from 0 up to 1, such as 0.2, or one of {', '.join(SPLITS)}")


def _allowed_bad(max_bad: str, total: int) -> float:
    try:
        allowed = float(max_bad[:-1]) / 100 * total if max_bad.endswith("%") else float(int(max_bad))
    except ValueError:
        allowed = -1.0
    if allowed < 0:
        raise DataError(f"--max-bad {max_bad}: give a number of files, such as 10, or a share, such as 2%")
    return allowed


def _empty_folder(out: Path, overwrite: bool) -> Path:
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file. Give --out a folder")
    if out.is_dir() and any(out.iterdir()):
        ours = any((out / name).exists() for name in (CARD_FILE, REPORT_FILE))
        if not (overwrite and ours):
            mend = "add --overwrite to replace it, or choose another --out" if ours else "choose another --out"
            raise DataError(f"{out}: {'already holds a dataset' if ours else 'is not empty'}; {mend}")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    return out


def _pool(workers: int) -> ProcessPool:
    # Decoders leak a little on damaged files (see video/): a worker is replaced after 2,000 videos.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPool(max_workers=workers or os.cpu_count() or 1, max_tasks=2000, context=context)


def _outcomes(pool: ProcessPool, function: Callable, items: Sequence, deadline: float | None) -> Iterator[Any]:
    """Results in the order of `items`; a deadline, a crash or an exception is yielded in its place, not raised."""
    results = pool.map(function, items, timeout=deadline, chunksize=1).result()
    for _ in items:
        try:
            yield next(results)
        except Exception as error:
            yield error


def _cause(error: Exception, deadline: float) -> str:
    if isinstance(error, VideoError):
        return error.cause
    if isinstance(error, DeadlineError):
        return f"not checked within {deadline:g} s: the decoder hangs or the disk is very slow"
    if isinstance(error, ProcessExpired):
        return f"the decoder crashed (exit code {error.exitcode})"
    return f"{type(error).__name__}: {error}"


def _probe(decode: bool, video: Video) -> VideoInfo:
    return probe(video.path, decode=decode)


def _check_all(videos: Sequence[Video], config: PrepareConfig) -> tuple[list[Checked], list[dict[str, str]]]:
    good: list[Checked] = []
    bad: list[dict[str, str]] = []
    with _pool(config.workers) as pool:
        outcomes = _outcomes(pool, partial(_probe, config.check == "decode"), videos, config.deadline)
        progress = tqdm(zip(videos, outcomes, strict=True), "checking", len(videos), unit=" videos", disable=None)
        for video, outcome in progress:
            if isinstance(outcome, Exception):
                bad.append({"path": str(video.path), "cause": _cause(outcome, config.deadline)})
            else:
                good.append(Checked(video, outcome))
    return good, bad


def _print_bad(bad: Sequence[dict[str, str]], total: int, out: Path) -> None:
    if not bad:
        return
    print(f"{len(bad)} of {total} files are left out ({out / REPORT_FILE}):", file=sys.stderr)
    for entry in bad[:20]:
        print(f"  {entry['path']}: {entry['cause']}", file=sys.stderr)
    if len(bad) > 20:
        print(f"  ... and {len(bad) - 20} more", file=sys.stderr)


def _write_dataset(good: Sequence[Checked], config: PrepareConfig, out: Path) -> Card:
    if config.split in SPLITS:
        placed = [replace(c.video, split=c.video.split or config.split) for c in good]
    else:
        placed = assign_splits([checked.video for checked in good], float(config.split), config.seed)
    checked = [Checked(video, c.info) for video, c in zip(placed, good, strict=True)]
    classes = sorted({c.video.label for c in checked if c.video.label is not None})
    _print_lonely(checked)

    name = config.name or out.resolve().name
    planned = {split: _plan(checked, split, config, out / f"{name}-{split}") for split in SPLITS}
    everything = [(path, members, classes) for shards in planned.values() for path, members in shards]
    with _pool(config.workers) as pool:
        outcomes = _outcomes(pool, _write_shard, everything, None)
        written = list(tqdm(outcomes, "writing", len(everything), unit=" shards", disable=None))
    for outcome in written:
        if isinstance(outcome, Exception):
            raise DataError(f"{out}: writing the shards failed ({outcome}); nothing is lost, run it again") from outcome
    by_file = {shard.file: shard for shard in written}
    splits = {}
    for split, shards in planned.items():
        if shards:
            counts = Counter(c.video.label for _, members in shards for c in members if c.video.label is not None)
            files = [by_file[path.name] for path, _ in shards]
            splits[split] = Split(sum(shard.videos for shard in files), dict(sorted(counts.items())), files)
    card = Card(name, classes, splits, {key: str(value) for key, value in asdict(config).items() if value is not None})
    write_card(card, out)
    return card


def _print_lonely(checked: Iterable[Checked]) -> None:
    counts = Counter(c.video.label for c in checked if c.video.label is not None)
    lonely = sorted(label for label, count in counts.items() if count == 1)
    if lonely:
        print(f"classes of a single video, which have nothing to be validated on: {', '.join(lonely)}", file=sys.stderr)


def _plan(
    checked: Sequence[Checked], split: str, config: PrepareConfig, stem: Path
) -> list[tuple[Path, list[Checked]]]:
    """The split's videos in a seeded order, cut into shards of about config.shard_mb."""
    members = [c for c in checked if c.video.split == split]
    order = np.random.default_rng([config.seed, SPLITS.index(split)]).permutation(len(members))
    shards: list[list[Checked]] = []
    size = float("inf")
    for i in order:
        bytes_of_video = members[i].video.path.stat().st_size
        if size + bytes_of_video > config.shard_mb * 1e6:
            shards.append([])
            size = 0.0
        shards[-1].append(members[i])
        size += bytes_of_video
    return [(stem.with_name(f"{stem.name}-{number:06d}.tar"), shard) for number, shard in enumerate(shards)]


def _write_shard(job: tuple[Path, list[Checked], list[str]]) -> Shard:
    path, members, classes = job
    temporary = path.with_suffix(".tar.tmp")
    with (
        temporary.open("wb") as handle,
        # Fixed times and names: the same videos and seed give the same bytes.
        webdataset.TarWriter(handle, encoder=False, mtime=0, mode=0o644, format="PAX_FORMAT") as tar,
    ):
        for checked in members:
            video = checked.video
            about = {"label": classes.index(video.label) if video.label is not None else -1, "class": video.label}
            suffix = video.path.suffix.lstrip(".").lower() or "video"
            payload = json.dumps({**about, **asdict(checked.info)}).encode()
            tar.write({"__key__": video.key, suffix: video.path.read_bytes(), "json": payload})
    digest, size = _make_last(temporary)
    os.replace(temporary, path)
    write_index(path)
    return Shard(path.name, len(members), size, digest)


def _make_last(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file, once it is on the disk."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
        os.fsync(handle.fileno())
        return digest.hexdigest(), handle.tell()
