"""From files to a dataset: each video checked under a deadline, split, re-encoded if asked for, and written to
WebDataset shards with an index. By any number of processes on any number of machines, and on from where it was killed.

out/card.json                          classes, counts, splits, checksums; written last
out/report.json                        the videos left out, each with its cause; how many each split has of how many;
                                       what re-encoding did to size, speed and quality
out/<name>-train-000000.tar            key.mp4 (or webm, avi, mkv: the bytes as they were, unless re-encoded) and
                                       key.json; a part of a longer file that is kept as it was has the whole file, and
                                       says which frames it is
out/<name>-train-000000.index.arrow    byte offsets, true frame counts, rates, sizes, codecs, which packet is what
out/.unfinished/                       until it is done: what is to be done (work.py), journals of what has been
                                       (journal.py), re-encoded videos, and shards being written
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..annotations import read_annotations
from ..errors import DataError
from ..manifest import SPLITS, Manifest, Video, assign_splits, videos_in_folder
from ..processes.disk import megabytes, room_for
from ..processes.parallel import Crew
from ..processes.ranks import Ranks
from ..shards.card import VERSION, Card, read_card, write_card
from ..shards.index import INDEX_VERSION
from .checking import Bad, Checked, check_all
from .encoding import bytes_to_come, reencode_all
from .report import bad_of_all, write_report
from .work import (
    RANKS_FOLDER,
    REPORT_FILE,
    Work,
    close_folder,
    locked,
    open_folder,
    refuse_foreign,
    remove_if_empty,
    work_folder,
)
from .writing import Planned, plan_shards, splits_of, write_shards

_NOTHING_TO_DO = (
    "nothing to prepare. Give a folder of classes and a place for the shards: tubelet prepare --videos FOLDER --out DIR"
)


@dataclass(frozen=True)
class PrepareConfig:
    out: Path | None = None
    """Folder for the shards, the card and the report: new, empty, or with what an earlier run of the same command has
    left, which is gone on with. All processes and machines must see it under this path."""
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
    """How each video is checked: decode every frame (finds damage), or count its packets only (much faster).
    Re-encoding decodes every frame in any case."""
    encode: Literal["keep", "fast"] = "keep"
    """keep: the videos' bytes as they are. fast: re-encode them as H.264 of which a clip is read several times as fast
    from about the same bytes; parts of videos are then cut. Says what it did to size, speed and quality."""
    short_side: Annotated[int, Field(ge=2, multiple_of=2)] = 256
    """Shorter side of re-encoded videos in pixels; smaller ones are not enlarged."""
    max_bad: str = "1%"
    """Videos that may be bad before the command fails: a number, or a share in percent. The shards are written in
    any case."""
    deadline: Annotated[float, Field(gt=0)] = 120.0
    """Seconds a file may take to be checked, and each 1,000 frames to be re-encoded; then it is reported and left
    out."""
    shard_mb: Annotated[float, Field(gt=0)] = 256.0
    """Size at which a shard is closed, in MB."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that check, re-encode and write, for each process of a launcher (0: one per core)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the split and the order of the videos in the shards."""
    overwrite: bool = False
    """Replace a dataset, or the unfinished work of another command, that is already in --out."""
    patience: Annotated[float, Field(gt=0)] = 600.0
    """Seconds to wait for a sign of life of another process of a launcher before it is taken for dead."""


# What decides the bytes that are written; and what does not may change between a run and the one that goes on with it.
_DECISIVE = ("videos", "labels", "split", "check", "encode", "short_side", "shard_mb", "seed")


def prepare(config: PrepareConfig, rank: int = 0, size: int = 1) -> Card:
    """Makes a dataset as `config` says, as process `rank` of `size`. Returns its card.

    All ranks are started alike and meet in `config.out`. The result is a pure function of the files and the arguments
    that say what to make: for any number of ranks and workers, killed and started again or not.

    Raises DataError when the input or output cannot be used, when more files are missing than `config.max_bad` allows,
    when no video is good, when a disk is full or another rank is lost, or, after everything has been written, when more
    videos are bad than `config.max_bad` allows.
    """
    if config.out is None:
        raise DataError(_NOTHING_TO_DO)
    if re.match("[a-z][a-z0-9+.-]+:$", config.out.parts[0]) and not Path(config.out.parts[0]).exists():
        raise DataError(f"--out {config.out}: is no folder. Write the shards to one, and copy it to where it shall lie")
    _check_split_argument(config.split)
    _allowed_bad(config.max_bad, 0)
    refuse_foreign(config.out)
    folder = work_folder(config.out)
    with Ranks(folder / RANKS_FOLDER, rank, size, config.patience) as ranks, ExitStack() as held:
        finished, work = False, None
        if rank == 0:
            work = listed = _work(config)
            held.enter_context(locked(config.out))
            with room_for("The list of videos", config.out, lambda: 300 * len(listed.manifest.videos)):
                finished = open_folder(config.out, listed, config.overwrite)
        if not ranks.gather("start", finished)[0]:
            work = work or Work.read(config.out)
            assert work is not None
            _make(work, config, _crew(config, ranks, folder))
    remove_if_empty(folder)
    bad, videos = bad_of_all(config.out)
    if bad > _allowed_bad(config.max_bad, videos):
        raise DataError(
            f"{bad} of {videos} videos are bad, more than --max-bad {config.max_bad}. The others are in {config.out}; "
            f"{config.out / REPORT_FILE} names each bad one. Mend them and prepare again, or allow them with --max-bad"
        )
    return read_card(config.out)


def _work(config: PrepareConfig) -> Work:
    """What there is to do. Raises DataError for inputs that cannot be used, before anything is written."""
    manifest = _manifest(config)
    videos = _with_splits(manifest, config)
    arguments = {name: getattr(config, name) for name in _DECISIVE} | {"name": _name(config)}
    # As JSON has them, which they are compared to. Shards of two versions must not lie side by side.
    arguments = json.loads(json.dumps({**arguments, "format": [VERSION, INDEX_VERSION]}, default=str))
    work = Work.of(arguments, replace(manifest, videos=videos))
    missing = [video for video in videos if video.path not in work.sizes]
    if len(missing) > _allowed_bad(config.max_bad, len(videos)):
        raise DataError(
            f"{len(missing)} of {len(videos)} videos are missing, more than --max-bad {config.max_bad}; the first is "
            f"{missing[0].path}. Give --videos the folder they lie in, or do without them: "
            f"--max-bad {math.ceil(100 * len(missing) / len(videos)) + 1}%"
        )
    return work


def _name(config: PrepareConfig) -> str:
    assert config.out is not None
    return config.name or config.out.resolve().name


def _crew(config: PrepareConfig, ranks: Ranks, folder: Path) -> Crew:
    cores = sorted(os.sched_getaffinity(0))
    place = [socket.gethostname(), cores]  # ranks of one machine that may run on the same cores share them
    sharing = ranks.gather("cores", place).count(place)
    return Crew(ranks, config.workers or max(1, len(cores) // sharing), folder)


def _make(work: Work, config: PrepareConfig, crew: Crew) -> None:
    """Does what is left to do, and waits until all ranks have."""
    out, videos = config.out, work.manifest.videos
    assert out is not None
    bad = [Bad(video, "no such file") for video in videos if video.path not in work.sizes]
    present = [video for video in videos if video.path in work.sizes]
    sizes = {path: size for path, (size, _) in work.sizes.items()}
    with room_for("The dataset", out, lambda: sum(sizes.values())):
        decode = config.check == "decode" and config.encode == "keep"  # what is re-encoded is decoded then
        good, more = check_all(present, sizes, decode, config.deadline, crew)
        bad += more
    encoding = None
    if config.encode == "fast":
        with room_for("Re-encoding", out, lambda: bytes_to_come(good, crew)):
            good, more, encoding = reencode_all(good, config.short_side, config.seed, config.deadline, crew)
            bad += more
    if crew.ranks.rank == 0:
        with room_for("The report", out, lambda: 300 * len(bad)):
            write_report(videos, bad, encoding, out)
    if not good:
        raise DataError(f"{config.videos or config.labels[0]}: none of {len(videos)} files is a video that can be read")
    _write(work, good, config, crew)


def _write(work: Work, good: Sequence[Checked], config: PrepareConfig, crew: Crew) -> None:
    out, name, manifest = config.out, _name(config), work.manifest
    assert out is not None
    classes = manifest.classes
    if classes is None:
        classes = sorted({label for checked in good for label in checked.video.labels})
    shards = plan_shards(good, out, name, config.shard_mb, config.seed)
    with room_for("Writing the shards", out, lambda: _room_needed(shards, config.encode)):
        _warn_of_little_room(out, _room_needed(shards, config.encode), crew.ranks.rank)
        written = write_shards(shards, classes, crew)
        splits = splits_of(shards, written, classes, Counter(video.split for video in manifest.videos))
        card = Card(name, classes, manifest.multilabel, splits, work.source())
        crew.ranks.gather("written")
        if crew.ranks.rank == 0:
            write_card(card, out)
            close_folder(out)
        crew.ranks.gather("the card")


def _room_needed(shards: Sequence[Planned], encode: str) -> int:
    """Bytes that the shards still need. Where they are made of re-encoded videos, these make room as they go."""
    left = [shard.bytes for shard in shards if not shard.path.exists()]
    return max(left, default=0) if encode == "fast" else sum(left)


def _warn_of_little_room(out: Path, needed: int, rank: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free and rank == 0:
        print(f"{out}: the shards need about {megabytes(needed)}, and {megabytes(free)} are free", file=sys.stderr)


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
        stored = "stored with its whole file" if config.encode == "keep" else "cut out of its file"
        where = f"; {torn} of these files have parts in more than one split" if torn else ""
        print(
            f"{len(videos)} videos are parts of {len(splits_of)} files: each is {stored}{where}",
            file=sys.stderr,
        )
    return videos


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
