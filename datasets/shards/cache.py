"""Files from elsewhere, brought here whole and once: over HTTP, from object stores, or out of a command."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import fsspec

from ..errors import DataError
from .patterns import PIPE

_TRIES = 3
_PAUSE_S = 2.0  # before the second try; twice that before the third


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
    Raises NotThere, or DataError for what cannot be fetched, or has another sha256, or finds no room.
    """
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


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold what only one process of a machine can hold at a time for `path`, a file in the cache or its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock file stays: removing it would be a race.
        lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise DataError(f"{path.parent}: cannot be used as a cache ({error}); give another with --cache") from error
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
