"""From files to a dataset: each video checked under a deadline, split, and written to WebDataset shards with an index.

out/card.json                          classes, counts, splits, checksums; written last
out/report.json                        the videos left out, each with its cause; how many each split has of how many
out/<name>-train-000000.tar            key.mp4 (or webm, avi, mkv: the bytes as they were) and key.json;
                                       a part of a longer file has the whole file, and says which frames it is
out/<name>-train-000000.index.arrow    byte offsets, true frame counts, rates, sizes, codecs, which packet is what
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import webdataset
from pydantic import Field
from tqdm import tqdm

from .annotations import read_annotations
from .card import CARD_FILE, Card, Shard, Split, write_card
from .checking import Bad, Checked, check_all, outcomes, process_pool
from .errors import DataError
from .index import write_index
from .manifest import SPLITS, Manifest, Video, assign_splits, videos_in_folder

REPORT_FILE = "report.json"
_SHOWN = 20  # bad videos named on the terminal
_NOTHING_TO_DO = (
    "nothing to prepare. Give a folder of classes and a place for the shards: tubelet prepare --videos FOLDER --out DIR"
)


@dataclass(frozen=True)
class PrepareConfig:
    out: Path | None = None
    """Folder for the shards, the card and the report. Must be new or empty, unless --overwrite."""
    videos: Path | None = None
    """Folder with one subfolder per class; or train/, val/ and test/ of such; or the videos themselves, without
    labels; or, with --labels, the folder that they lie in or that their paths start from."""
    labels: tuple[Path, ...] = ()
    """Label files of one dataset, recognised by name and content: the CSVs of Kinetics, the JSON files of
    Something-Something V2, the split files of UCF101 or HMDB51, lists of `path label` (MMAction2, PySlowFast), or a
    table (CSV, Parquet) with the columns path, label or labels, and optionally start and end in seconds and split.
    Beside any of them, a file with the names of the classes in their order."""
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


def prepare(config: PrepareConfig) -> Card:
    """Makes a dataset as `config` says. Returns its card.

    Raises DataError when the input or output cannot be used, when more files are missing than `config.max_bad` allows,
    when no video is good, or, after everything has been written, when more are bad than it allows.
    """
    if config.out is None:
        raise DataError(_NOTHING_TO_DO)
    _check_split_argument(config.split)
    manifest = _manifest(config)
    videos = _with_splits(manifest, config)
    allowed = _allowed_bad(config.max_bad, len(videos))
    present, missing = _on_disk(videos, allowed, config.max_bad)
    out = _empty_folder(config.out, config.overwrite)

    good, bad = check_all(present, config.check == "decode", config.deadline, config.workers)
    bad = missing + bad
    _report(videos, bad, out)
    if not good:
        source = config.videos or config.labels[0]
        raise DataError(f"{source}: none of {len(videos)} files is a video that can be read")
    card = _write_dataset(replace(manifest, videos=videos), good, config, out)
    if len(bad) > allowed:
        raise DataError(
            f"{len(bad)} of {len(videos)} videos are bad, more than --max-bad {config.max_bad}. The others are in "
            f"{out}; {out / REPORT_FILE} names each bad one. Mend them and prepare again, or allow them with --max-bad"
        )
    return card


def _manifest(config: PrepareConfig) -> Manifest:
    if config.labels:
        return read_annotations(config.labels, config.videos)
    if config.videos is None:
        raise DataError(_NOTHING_TO_DO)
    return videos_in_folder(config.videos)


def _with_splits(manifest: Manifest, config: PrepareConfig) -> list[Video]:
    """The videos of the manifest, each in a split, and a word on what may surprise in them."""
    if config.split in SPLITS:
        videos = [replace(video, split=video.split or config.split) for video in manifest.videos]
    else:
        videos = assign_splits(manifest.videos, float(config.split), config.seed)
        counts = Counter(label for video in videos for label in video.labels)
        lonely = sorted(label for label, count in counts.items() if count == 1)
        if lonely and not any(video.split for video in manifest.videos):
            print(f"classes of one video, which have nothing to be validated on: {', '.join(lonely)}", file=sys.stderr)
    splits_of: dict[Path, list[str | None]] = defaultdict(list)
    for video in videos:
        splits_of[video.path].append(video.split)
    if len(splits_of) < len(videos):
        torn = sum(len(set(splits)) > 1 for splits in splits_of.values())
        where = f"; {torn} of these files have parts in more than one split" if torn else ""
        print(
            f"{len(videos)} videos are parts of {len(splits_of)} files: each is stored with its whole file{where}",
            file=sys.stderr,
        )
    return videos


def _on_disk(videos: Sequence[Video], allowed: float, max_bad: str) -> tuple[list[Video], list[Bad]]:
    """The videos whose file is there, and those whose file is not. Raises DataError where these are more than allowed,
    before hours of work."""
    missing = [Bad(video, "no such file") for video in videos if not video.path.is_file()]
    if len(missing) > allowed:
        raise DataError(
            f"{len(missing)} of {len(videos)} videos are missing, more than --max-bad {max_bad}; the first is "
            f"{missing[0].video.path}. Give --videos the folder they lie in, or do without them: "
            f"--max-bad {math.ceil(100 * len(missing) / len(videos)) + 1}%"
        )
    lost = {bad.video.key for bad in missing}
    return [video for video in videos if video.key not in lost], missing


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


def _report(videos: Sequence[Video], bad: Sequence[Bad], out: Path) -> None:
    """What is left out, wholly in the report and its beginning on the terminal."""
    entries = [{"path": str(b.video.path), "start": b.video.start, "end": b.video.end, "cause": b.cause} for b in bad]
    listed, lost = (Counter(video.split for video in some) for some in (videos, [b.video for b in bad]))
    splits = {
        split: {"videos": listed[split], "good": listed[split] - lost[split]} for split in SPLITS if listed[split]
    }
    for split, counts in splits.items():
        if not counts["good"]:
            print(f"{split}: none of its {counts['videos']} videos can be used", file=sys.stderr)
    report = {"videos": len(videos), "good": len(videos) - len(bad), "splits": splits, "bad": entries}
    (out / REPORT_FILE).write_text(json.dumps(report, indent=1))
    if not bad:
        return
    print(f"{len(bad)} of {len(videos)} videos are left out ({out / REPORT_FILE}):", file=sys.stderr)
    for left_out in bad[:_SHOWN]:
        print(f"  {left_out.video}: {left_out.cause}", file=sys.stderr)
    if len(bad) > _SHOWN:
        print(f"  ... and {len(bad) - _SHOWN} more", file=sys.stderr)


def _write_dataset(manifest: Manifest, good: Sequence[Checked], config: PrepareConfig, out: Path) -> Card:
    classes = manifest.classes
    if classes is None:
        classes = sorted({label for checked in good for label in checked.video.labels})
    name = config.name or out.resolve().name
    planned = {split: _plan(good, split, config, out / f"{name}-{split}") for split in SPLITS}
    everything = [(path, members, classes) for shards in planned.values() for path, members in shards]
    with process_pool(config.workers) as pool:
        results = outcomes(pool, _write_shard, everything, None)
        written = list(tqdm(results, "writing", len(everything), unit=" shards", disable=None))
    for outcome in written:
        if isinstance(outcome, Exception):
            raise DataError(f"{out}: writing the shards failed ({outcome}); nothing is lost, run it again") from outcome
    by_file = {shard.file: shard for shard in written}
    listed = Counter(video.split for video in manifest.videos)
    splits = {}
    for split, shards in planned.items():
        if shards:
            counts = Counter(label for _, members in shards for c in members for label in c.video.labels)
            files = [by_file[path.name] for path, _ in shards]
            videos = sum(shard.videos for shard in files)
            splits[split] = Split(videos, listed[split], {c: counts[c] for c in classes if counts[c]}, files)
    card = Card(name, classes, manifest.multilabel, splits, _source(config))
    write_card(card, out)
    return card


def _source(config: PrepareConfig) -> dict[str, Any]:
    """The arguments as JSON."""
    return json.loads(json.dumps({k: v for k, v in asdict(config).items() if v not in (None, ())}, default=str))


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
    numbers = {label: number for number, label in enumerate(classes)}
    temporary = path.with_suffix(".tar.tmp")
    with (
        temporary.open("wb") as handle,
        # Fixed times and names: the same videos and seed give the same bytes.
        webdataset.TarWriter(handle, encoder=False, mtime=0, mode=0o644, format="PAX_FORMAT") as tar,
    ):
        for checked in members:
            video = checked.video
            about = {
                "labels": [numbers[label] for label in video.labels],
                "classes": video.labels,
                "start": video.start,
                "end": video.end,
                "start_frame": checked.start_frame,
                "end_frame": checked.end_frame,
            }
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
