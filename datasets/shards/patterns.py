"""What `--data` may name besides a folder: single tars, braces and wildcards, URLs, and the output of a command."""

from __future__ import annotations

import glob
import re
from pathlib import Path

import braceexpand
import fsspec

from ..errors import DataError
from ..manifest import split_named

PIPE = "pipe:"
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_local(location: str) -> bool:
    return not (location.startswith(PIPE) or _URL.match(location))


def names_shards(data: str) -> bool:
    """Whether `data` names tars, and not a folder with a card."""
    if data.startswith(PIPE):
        return True
    if not is_local(data):
        path = data.partition("?")[0]
        return path.endswith(".tar") or any(sign in path for sign in "{*[")
    return not Path(data).is_dir() and (Path(data).is_file() or data.endswith(".tar") or any(s in data for s in "{*?["))


def expand(data: str) -> list[str]:
    """The tars that a pattern names: paths, URLs, and commands of `pipe:`. Braces as in a shell, {000..012} or {a,b};
    wildcards * ? [] and ** over folders. Raises DataError where there are none."""
    if is_local(data) and Path(data).exists():
        found = [data]
    else:
        try:
            words = list(braceexpand.braceexpand(data))
        except ValueError as error:
            raise DataError(f"--data {data}: its braces do not match ({error})") from error
        found = list(dict.fromkeys(location for word in words for location in _matches(word)))
    if not found:
        raise DataError(f"--data {data}: no tar has a name like this")
    for location in found:
        if not location.startswith(PIPE) and not location.partition("?")[0].endswith(".tar"):
            raise DataError(f"{location}: is not a .tar; compressed tars have to be unpacked first")
    return found


def _matches(word: str) -> list[str]:
    if is_local(word):
        some = sorted(glob.glob(word, recursive=True)) if glob.has_magic(word) else [word]
        return [path for path in some if path.endswith(".tar") or path == word]
    if word.startswith(PIPE) or not any(sign in word.partition("?")[0] for sign in "*["):
        return [word]
    try:
        files, pattern = fsspec.core.url_to_fs(word)
        some = [files.unstrip_protocol(path) for path in files.glob(pattern)]
    except Exception as error:  # each kind of file system has errors of its own
        raise DataError(f"--data {word}: what is there cannot be listed ({error or type(error).__name__})") from error
    return sorted(path for path in some if path.endswith(".tar"))


def split_of(location: str) -> str | None:
    """The split that a word in the name of a shard tells, the last that does, or else its folder: train, val, test."""
    if location.startswith(PIPE):
        location = next(iter(re.findall(r"[^\s'\"|]+\.tar", location)[-1:]), "")
    folder, _, name = location.partition("?")[0].rpartition("/")
    words = [folder.rpartition("/")[2], *re.findall("[A-Za-z]+", name)]
    return next((split for word in reversed(words) if (split := split_named(word))), None)
