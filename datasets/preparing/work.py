"""What a command prepares, kept beside what it has done: so that the same command goes on, and no other one."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..manifest import Manifest, Video
from ..shards.card import CARD_FILE, read_card
from ..shards.index import INDEX_SUFFIX

REPORT_FILE = "report.json"
_FOLDER = ".unfinished"
_FILE = "work.jsonl"
_LOCK = "lock"
RANKS_FOLDER = "ranks"
_NAMED = 3  # videos named in a message


def work_folder(out: Path) -> Path:
    return out / _FOLDER


@dataclass(frozen=True)
class Work:
    """arguments: those that decide what will be in `out`, by name. manifest: its videos, each in a split. sizes: bytes
    and time of the last change, in ns, of each file that is there."""

    arguments: dict[str, Any]
    manifest: Manifest
    sizes: dict[Path, tuple[int, int]] = field(repr=False)

    @classmethod
    def of(cls, arguments: dict[str, Any], manifest: Manifest) -> Work:
        sizes = {}
        for video in manifest.videos:
            if video.path not in sizes and video.path.is_file():
                about = video.path.stat()
                sizes[video.path] = (about.st_size, about.st_mtime_ns)
        return cls(arguments, manifest, sizes)

    def source(self) -> dict[str, Any]:
        """What the card says of it: the arguments, and a digest of the videos, their labels, sizes and times."""
        digest = hashlib.sha256()
        for line in self._lines():
            digest.update(line.encode())
        return {**self.arguments, "inputs": digest.hexdigest()}

    def write(self, out: Path) -> None:
        file = work_folder(out) / _FILE
        temporary = file.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as handle:
            handle.writelines(f"{line}\n" for line in self._lines())
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, file)

    @classmethod
    def read(cls, out: Path) -> Work | None:
        """What `write` wrote, None where it has not."""
        file = work_folder(out) / _FILE
        if not file.is_file():
            return None
        videos, sizes = [], {}
        with file.open(encoding="utf-8") as handle:
            arguments, classes, multilabel = json.loads(next(handle))
            for line in handle:
                key, path, labels, *rest, size = json.loads(line)
                videos.append(Video(key, Path(path), tuple(labels), *rest))
                if size:
                    sizes[Path(path)] = (size[0], size[1])
        return cls(arguments, Manifest(videos, classes, multilabel), sizes)

    def _lines(self) -> Iterator[str]:
        yield json.dumps([self.arguments, self.manifest.classes, self.manifest.multilabel])
        yield from map(self._line, self.manifest.videos)

    def _line(self, v: Video) -> str:
        size = self.sizes.get(v.path)
        return json.dumps([v.key, str(v.path), v.labels, v.split, v.start, v.end, v.may_be_trimmed, size])

    def differences(self, earlier: Work) -> str:
        """In words what is another than in `earlier`, nothing where all is the same."""
        if words := argument_differences(self.arguments, earlier.arguments):
            return words
        if (self.manifest.classes, self.manifest.multilabel) != (earlier.manifest.classes, earlier.manifest.multilabel):
            return "the list of classes has changed"
        ours, theirs = ({v.key: work._line(v) for v in work.manifest.videos} for work in (self, earlier))
        if ours == theirs:
            return "" if list(ours) == list(theirs) else "its videos are listed in another order"
        changed = [key for key, line in ours.items() if key in theirs and theirs[key] != line]
        kinds = (("is new", ours.keys() - theirs), ("is gone", theirs.keys() - ours), ("has changed", changed))
        named = [f"{key} {what}" for what, keys in kinds for key in sorted(keys)]
        more = f", and so on for {len(named) - _NAMED} more videos" if len(named) > _NAMED else ""
        return ", ".join(named[:_NAMED]) + more


def argument_differences(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    return ", ".join(
        f"--{name.replace('_', '-')} is {ours.get(name)} and was {theirs.get(name)}"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    )


def refuse_foreign(out: Path) -> None:
    """Raises DataError where `out` is a file, or holds what no `prepare` has written."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file. Give --out a folder")
    ours = (out / CARD_FILE).exists() or work_folder(out).exists()
    if out.is_dir() and not ours and any(out.iterdir()):
        raise DataError(f"{out}: is not empty; choose another --out")


def open_folder(out: Path, work: Work, overwrite: bool) -> bool:
    """Makes `out` ready for `work`: empty, or as an earlier run of the same command left it. True where that finished.

    Raises DataError where `out` holds anything else that `overwrite` does not allow to replace.
    """
    refuse_foreign(out)
    mend = "add --overwrite to replace it, or choose another --out"
    if earlier := Work.read(out):
        differences = work.differences(earlier)
        if not differences:
            print(f"{out}: going on where an earlier run of this command stopped", file=sys.stderr)
            return False
        if not overwrite:
            raise DataError(
                f"{out}: holds the unfinished work of another command: {differences}. Start that one again, or {mend}"
            )
    elif not overwrite and (out / CARD_FILE).is_file():
        source = _source_of(out)
        if source == work.source():
            print(f"{out}: this command has finished already", file=sys.stderr)
            return True
        made_of = {name: value for name, value in source.items() if name != "inputs"}
        differences = argument_differences(work.arguments, made_of) or "its videos or their labels have changed"
        raise DataError(f"{out}: already holds a dataset; {mend}. It was made otherwise: {differences}")
    work_folder(out).mkdir(parents=True, exist_ok=True)
    _empty(out)
    work.write(out)
    return False


def _source_of(out: Path) -> dict[str, Any]:
    try:
        return read_card(out).source
    except DataError:
        return {}


def _empty(out: Path) -> None:
    """Removes what a `prepare` has made. Killed at any moment it leaves what can be emptied again: first goes what says
    that something is finished, then what says that something can be gone on with."""
    (out / CARD_FILE).unlink(missing_ok=True)
    close_folder(out)
    # *.index.parquet: of a dataset that an older tubelet made.
    for path in (out / REPORT_FILE, *out.glob(f"*{INDEX_SUFFIX}"), *out.glob("*.index.parquet"), *out.glob("*.tar")):
        path.unlink(missing_ok=True)


def close_folder(out: Path) -> None:
    """Removes what was only kept to go on with, but for what the processes at work hold."""
    (work_folder(out) / _FILE).unlink(missing_ok=True)
    for path in work_folder(out).iterdir():
        if path.name not in (_LOCK, RANKS_FOLDER):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Raises DataError where another command is at work in `out`. The lock ends with the process, however that ends."""
    folder = work_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise DataError(
                    f"{out}: another command is at work here. Wait for its end, or end it. (Several processes share "
                    "the work only where their launcher tells each its rank: RANK and WORLD_SIZE)"
                ) from error
            # A file system without locks: then nobody is warned.
        try:
            yield
        finally:
            (folder / _LOCK).unlink(missing_ok=True)
            remove_if_empty(folder)


def remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
