"""Files from elsewhere, brought here whole and once: over HTTP, from object stores, or out of a command."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import fsspec

from ..errors import DataError
from .patterns import PIPE

_TRIES = 3
_PAUSE_S = 2.0  # before the second try; twice that before the third
_LIMIT = "TUBELET_CACHE_GB"
_FREE_SHARE = 1 / 20  # of the disk, without a limit
_IN_USE = ".in-use"  # in each folder of the cache, locked by the processes that use it; its time is when the last began
_held: dict[Path, int] = {}  # folders that this process uses, and the descriptor of that lock


class NotThere(DataError):
    """There is no such file, or none that may be read."""


def default_cache() -> Path:
    """$TUBELET_HOME/shards, else tubelet/shards in $XDG_CACHE_HOME or ~/.cache."""
    if home := os.environ.get("TUBELET_HOME"):
        return Path(home, "shards").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tubelet", "shards")


def cached_path(location: str, cache: Path, sha256: str | None = None) -> Path:
    """Where a file from `location` is kept. With its sha256 the name says which version it is, so that a file that was
    made again elsewhere is another one here."""
    if location.startswith(PIPE):
        return cache / "pipe" / f"{_digest(location)}.tar"
    address, _, query = location.partition("?")
    folder, _, name = address.rpartition("/")
    readable = re.sub(r"[^\w.-]+", "_", folder)[-60:]
    path = cache / f"{readable}-{_digest(folder + query)}" / re.sub(r"[^\w.=@+-]", "_", name)[-120:]
    return path.with_suffix(f".{sha256[:16]}{path.suffix}") if sha256 else path


def bring(location: str, path: Path, sha256: str | None = None, again: bool = False) -> None:
    """Brings the file at `location`, or what a command puts out, to `path`, unless it is there; with `again` anyway.

    It is there whole or not at all; of several processes that ask at once one fetches it, and the others wait.
    Then the cache is brought back to its limit. What lies in the same folder stays for as long as this process lives.
    Raises NotThere, or DataError for what cannot be fetched, or has another sha256, or finds no room.
    """
    _hold(path.parent)
    if path.is_file() and not again:
        return
    with alone(path):
        if path.is_file() and not again:
            return
        temporary = path.with_name(f".{path.name}.partial")
        try:
            _receive(location, temporary, sha256)
            os.replace(temporary, path)
        except OSError as error:
            raise DataError(_unreachable(location, path, error)) from error
        finally:
            temporary.unlink(missing_ok=True)
    if path.suffix == ".tar":
        _make_room(path.parent.parent)


def _hold(folder: Path) -> None:
    """Keeps others from removing what is in `folder` until this process ends."""
    if folder in _held:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _IN_USE, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.utime(descriptor)
    except OSError as error:
        raise DataError(_unusable(folder, error)) from error
    _held[folder] = descriptor


def _make_room(cache: Path) -> None:
    """Removes tars, those of the folders used longest ago first and none of one in use, until the cache is no larger
    than it may be."""
    excess = _excess(cache)
    marks = sorted(cache.glob(f"*/{_IN_USE}"), key=lambda mark: mark.stat().st_mtime) if excess > 0 else []
    for mark in marks:
        with suppress(OSError), mark.open("r+b") as lock:  # one in use, or of another user
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for tar in sorted(mark.parent.glob("*.tar")):
                if excess <= 0:
                    return
                size = tar.stat().st_size
                tar.unlink()
                excess -= size
    if excess > 0:
        print(
            f"{cache}: the cache is {excess / 1e9:,.1f} GB larger than it may be, and what is left is in use. "
            f"${_LIMIT} says how large it may be, --cache where it is",
            file=sys.stderr,
        )


def _excess(cache: Path) -> float:
    """Bytes that the tars of a cache are above its limit; without one, that the disk lacks to have some room left."""
    if (limit := os.environ.get(_LIMIT)) is None:
        disk = shutil.disk_usage(cache)
        return disk.total * _FREE_SHARE - disk.free
    if not re.fullmatch(r"\d+(\.\d*)?", limit):
        raise DataError(f"${_LIMIT}: is {limit!r} where a number of gigabytes is wanted, such as 500")
    tars = (tar for mark in cache.glob(f"*/{_IN_USE}") for tar in mark.parent.glob("*.tar"))
    return sum(tar.stat().st_size for tar in tars) - float(limit) * 1e9


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold what only one process of a machine can hold at a time for `path`, a file in the cache or its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock file stays: removing it would be a race.
        lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise DataError(_unusable(path.parent, error)) from error
    try:
        yield
    finally:
        lock.release()


def _receive(location: str, path: Path, sha256: str | None) -> None:
    if location.startswith(PIPE):
        return _run(location, path)
    for attempt in range(1, _TRIES + 1):
        try:
            files, remote = fsspec.core.url_to_fs(location)
            files.get_file(remote, str(path))
            break
        except Exception as error:  # each kind of file system has errors of its own
            if _is_not_there(error):
                raise NotThere(f"{location}: there is no such file, or it may not be read ({_words(error)})") from error
            hopeless = isinstance(error, ImportError | ValueError) or _is_full(error)
            if hopeless or attempt == _TRIES:
                raise DataError(_unreachable(location, path, error)) from error
            time.sleep(_PAUSE_S * attempt)
    if sha256 is not None and (found := checksum(path)) != sha256:
        raise DataError(
            f"{location}: is not the file that its dataset tells of (sha256 {found[:12]} instead of {sha256[:12]}): it "
            "was damaged on the way, or replaced. Try again, or copy the dataset there again"
        )


def _run(location: str, path: Path) -> None:
    """The output of a command that the user gave, run by the shell as WebDataset does."""
    with path.open("wb") as file:
        command = ["sh", "-c", location.removeprefix(PIPE)]
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, check=False).returncode
    if code:
        raise DataError(f"{location}: the command ended with code {code}; what it wrote is not used")


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _unusable(folder: Path, error: Exception) -> str:
    return f"{folder}: cannot be used as a cache ({error}); give another with --cache"


def _is_not_there(error: Exception) -> bool:
    # Object stores and servers that do not list their files answer 403 for what is not there.
    return isinstance(error, FileNotFoundError | PermissionError) or getattr(error, "status", 0) in (401, 403, 404, 410)


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _unreachable(location: str, path: Path, error: Exception) -> str:
    if _is_full(error):
        return f"{location}: no room left for it in {path.parent}; free some, or give another folder with --cache"
    if isinstance(error, ImportError):
        return f"{location}: needs a package that is not installed ({_words(error)}): pip install 'tubelet[remote]'"
    return f"{location}: cannot be fetched ({_words(error)}). Try again with a network, or copy the data here"
