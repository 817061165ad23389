"""Making files last, and one clear message where a disk is full."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DataError


def sync(path: Path) -> None:
    """Makes a file and its name last, also where the machine fails."""
    for each in (path, path.parent):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def room_for(what: str, out: Path, needed: Callable[[], float]) -> Iterator[None]:
    """Turns the error of a full disk into a DataError. needed: bytes that are still to be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        why = "the disk is full" if error.errno == errno.ENOSPC else "the quota of the disk is used up"
        free = shutil.disk_usage(out).free
        raise DataError(
            f"{out}: {why}. {what} needs about {megabytes(needed())} more, and {megabytes(free)} are free. No shard is "
            "half written. Make space and start the same command again: it goes on where it stopped"
        ) from error


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
