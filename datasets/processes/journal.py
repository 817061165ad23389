"""What is done, a line for each piece of work, so that a command that was killed goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any


class Journal:
    """Results of numbered pieces of work, as JSON lines `[number, result]` in `folder/name-<rank>.jsonl`.

    Each rank writes a file of its own and reads all of them, those of an earlier run with more ranks too. Use it as a
    context manager while results are added.
    """

    def __init__(self, folder: Path, name: str, rank: int):
        self._folder, self._name = folder, name
        self._own = folder / f"{name}-{rank}.jsonl"
        self._handle: FileIO | None = None

    def read(self) -> Iterator[tuple[int, Any]]:
        """(number, result) of all that is done. A last line that a kill has torn is not there."""
        for file in sorted(self._folder.glob(f"{self._name}-*.jsonl")):
            with file.open("rb") as lines:
                for line in lines:
                    if line.endswith(b"]\n"):
                        number, result = json.loads(line)
                        yield number, result

    def add(self, number: int, result: Any) -> None:
        assert self._handle is not None
        line = json.dumps([number, result]).encode() + b"\n"
        while line:  # a disk that fills up takes a part, and refuses the rest
            line = line[self._handle.write(line) :]

    def __enter__(self) -> Journal:
        # Unbuffered: what is added survives a kill of this process.
        self._handle = FileIO(self._own, "r+" if self._own.exists() else "x+")
        whole = self._own.read_bytes().rfind(b"\n") + 1
        self._handle.truncate(whole)
        self._handle.seek(whole)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._handle is not None
        try:
            os.fsync(self._handle.fileno())
        finally:
            self._handle.close()
            self._handle = None
