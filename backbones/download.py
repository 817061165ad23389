"""One file over HTTP: resumed where it broke off, checked, there whole or not at all, also when many ask at once."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from .layouts import WeightsError

TIMEOUT = 30.0  # seconds without a byte
_TRIES = 4  # of one download, each going on where the last one broke off
_CHUNK = 1 << 20


def download(url: str, path: Path, sha256: str | None = None) -> None:
    """Bring `url` to `path`, if it is not there. sha256: the file's hash, or its first digits.

    The full hash is recorded beside the file, and a file that no longer has it is refused. Several processes of one
    machine may ask for the same file: one downloads, the others wait for it.

    Raises WeightsError: one message with the URL, the cause and the mend.
    """
    try:
        if not path.is_file():  # it is put in place whole, so that where it is there is nothing to wait for
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(path):
                if not path.is_file():
                    _bring(url, path, sha256)
        check(path, sha256)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WeightsError(_no_room(url, path)) from error
        raise WeightsError(f"{path} cannot be written ({error.strerror or error}); {_by_variable()}") from error


def check(path: Path, sha256: str | None) -> None:
    """Raise WeightsError unless the file at `path` has the hash that was published and the one that was recorded."""
    record = path.with_name(f"{path.name}.sha256")
    found = _hash_of(path)
    known = record.read_text().split()[0] if record.is_file() else None
    if known is not None and known != found:
        raise WeightsError(f"{path} was changed or damaged since it was downloaded; remove it, and it is fetched again")
    if sha256 is not None and not found.startswith(sha256):
        raise WeightsError(
            f"{path} is not the published file: its sha256 begins with {found[: len(sha256)]} instead of {sha256}; "
            "remove it, and it is fetched again"
        )
    if known is None:
        with suppress(OSError):  # a folder that others have filled may be closed to us
            temporary = path.with_name(f".{record.name}.{os.getpid()}")
            temporary.write_text(f"{found}  {path.name}\n")
            os.replace(temporary, record)


def _bring(url: str, path: Path, sha256: str | None) -> None:
    partial = path.with_name(f"{path.name}.partial")
    for attempt in range(1, _TRIES + 1):
        before = _size(partial)
        try:
            _receive(url, path, partial)
            break
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            lost = isinstance(error, urllib.error.HTTPError) or _size(partial) <= before  # trying again helps nobody
            if lost or attempt == _TRIES:
                raise WeightsError(_unreachable(url, path, _cause(error))) from error
    found = _hash_of(partial)
    if sha256 is not None and not found.startswith(sha256):
        partial.unlink()
        _validator(partial).unlink(missing_ok=True)
        raise WeightsError(
            f"{url} is not the published file: its sha256 begins with {found[: len(sha256)]} instead of {sha256}. "
            f"It was damaged on the way or replaced; try again, or put the right file at {path}"
        )
    _validator(partial).unlink(missing_ok=True)
    os.replace(partial, path)


def _receive(url: str, path: Path, partial: Path) -> None:
    """Append to `partial` what is missing of it. A server that cannot go on, or has another file now, starts over."""
    have = _size(partial) if _validator(partial).is_file() else 0
    part = {"Range": f"bytes={have}-", "If-Range": _validator(partial).read_text()} if have else {}
    try:
        response = _open(url, part)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing is left to send of a file that has shrunk
            raise
        response = _open(url, {})
    with response:
        start, total = _span(response)
        if start not in (0, have):
            raise ConnectionError(f"the server went on at byte {start} instead of {have}")
        chunk = response.read(_CHUNK)
        if not start and _is_page(response, chunk):
            raise WeightsError(
                f"{url} answered with a web page instead of the file: it wants a login or a click (Google Drive asks "
                f"before large files), or is gone. Fetch it in a browser and put it at {path}"
            )
        if total is not None and shutil.disk_usage(path.parent).free < total - start:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or "W/"
        if validator.startswith("W/"):  # none, or one that is the same for different bytes
            _validator(partial).unlink(missing_ok=True)
        else:
            _validator(partial).write_text(validator)
        bar = tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc=path.name, disable=not sys.stderr.isatty()
        )
        with bar, partial.open("r+b" if start else "wb") as file:
            file.seek(start)
            while chunk:
                file.write(chunk)
                bar.update(len(chunk))
                chunk = response.read(_CHUNK)
            file.truncate()
    if total is not None and _size(partial) != total:
        raise ConnectionError(f"the connection broke off after {_size(partial)} of {total} bytes")


def _open(url: str, headers: dict[str, str]) -> HTTPResponse:
    request = urllib.request.Request(_direct(url), headers={"User-Agent": "tubelet", **headers})
    return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)


def _is_page(response: HTTPResponse, start: bytes) -> bool:
    page = start.lstrip()[:14].lower().startswith((b"<!doctype", b"<html"))
    return page or response.headers.get_content_type() == "text/html"


def _span(response: HTTPResponse) -> tuple[int, int | None]:
    """Where the answer's bytes begin in the file, and how long the whole file is, if that is told."""
    if response.status == 206:
        found = re.match(r"bytes (\d+)-\d+/(\d+)$", response.headers.get("Content-Range", ""))
        if found is None:
            raise ConnectionError("the server sent a part without saying which")
        return int(found[1]), int(found[2])
    length = response.headers.get("Content-Length")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    return 0, None if length is None or encoded else int(length)


def _direct(url: str) -> str:
    """The address of the file itself, where publishers give that of a page that shows it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise WeightsError(f"{url} is no http(s) address")
    if parts.hostname == "www.dropbox.com":
        return url.replace("?dl=0", "?dl=1")
    if parts.hostname == "drive.google.com" and (file := re.search(r"/file/d/([\w-]+)", parts.path)):
        return f"https://drive.google.com/uc?export=download&id={file[1]}"
    return url


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirection within the web, but never from https to where anyone on the way may change the file."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if urlsplit(newurl).scheme not in ({"https"} if req.full_url.startswith("https:") else {"http", "https"}):
            raise urllib.error.URLError(f"it leads to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold what only one process of a machine can hold at a time. The lock file stays: removing it would be a race."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        with suppress(OSError):  # some network file systems know no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _validator(partial: Path) -> Path:
    """Keeps what the server calls this version of the file, so that no two versions are joined."""
    return partial.with_name(f".{partial.name}.version")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _cause(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    reason = getattr(error, "reason", error)
    return f"{getattr(reason, 'strerror', None) or reason or type(error).__name__}".lower()


def _unreachable(url: str, path: Path, cause: str) -> str:
    kept = _size(path.with_name(f"{path.name}.partial"))
    again = f"run again to go on after {kept / 1e6:.1f} MB" if kept else "try again with a network"
    return f"{url} cannot be downloaded ({cause}); {again}, or put the file at {path} by hand"


def _no_room(url: str, path: Path) -> str:
    return f"{url} cannot be downloaded: no room left in {path.parent}; free some, or {_by_variable()}"


def _by_variable() -> str:
    return "set TUBELET_HOME to a folder elsewhere"
