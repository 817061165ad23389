"""The processes of one command on one or several machines, which share a file system and nothing else.

They meet in a folder, and each says there what the others must know of it. Files of an earlier meeting that was killed
do no harm: the ranks know each other by random names, as does every meeting.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import DataError

_POLL_S = 0.2
_BEAT_S = 3.0
_SILENT_WAIT_S = 5.0  # a wait that lasts longer is told on the terminal


class Ranks:
    """Process `rank` of `size`; use it as a context manager around what they do together.

    folder: where they meet; made by the first and removed by the last. patience: seconds without a sign of life of
    another rank, after which it is taken for dead. Alone (`size` 1) it touches no file.
    Raises DataError where another rank does not come, ends with an error, or dies.
    """

    def __init__(self, folder: Path, rank: int, size: int, patience: float):
        if not 0 <= rank < size:
            raise DataError(f"rank {rank} of {size}: the launcher's variables make no sense")
        self.rank, self.size = rank, size
        self._folder, self._patience = folder, patience
        self._name = uuid.uuid4().hex
        self._room = folder
        self._over = threading.Event()

    def __enter__(self) -> Ranks:
        if self.size > 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._open_room() if self.rank == 0 else self._enter_room()
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self.size == 1:
            return
        if error is not None:
            self._write(self._room / f"failed-{self.rank}", str(error) or type(error).__name__)
            return
        self._write(self._room / f"left-{self.rank}", True)
        if all(self._read(self._room / f"left-{rank}") for rank in range(self.size)):
            shutil.rmtree(self._folder, ignore_errors=True)

    def gather(self, step: str, value: Any = None) -> list[Any]:
        """`value` (JSON) of every rank, in order, once all have come to `step`."""
        if self.size == 1:
            return [value]
        self._write(self._room / f"{step}-{self.rank}", [value])
        found: dict[int, Any] = {}

        def has_come(rank: int) -> bool:
            if (content := self._read(self._room / f"{step}-{rank}")) is not None:
                found[rank] = content[0]
            return rank in found

        self._wait_for(has_come, step)
        return [found[rank] for rank in range(self.size)]

    def _open_room(self) -> None:
        """Rank 0 names the meeting and lets each rank in by the name it came with. One that enters has seen the name of
        this meeting, and not that of an earlier one."""
        for stale in self._folder.glob("room-*"):
            shutil.rmtree(stale, ignore_errors=True)
        self._room = self._folder / f"room-{self._name}"
        self._room.mkdir()
        let_in: dict[str, str] = {}

        def has_entered(rank: int) -> bool:
            came = self._read(self._folder / f"came-{rank}")
            if came is not None and let_in.get(str(rank)) != came:
                let_in[str(rank)] = came
                self._write(self._folder / "host", {"room": self._room.name, "let_in": let_in})
            return self._read(self._room / f"entered-{rank}") == came is not None

        self._wait_for(has_entered, "start", range(1, self.size))

    def _enter_room(self) -> None:
        self._write(self._folder / f"came-{self.rank}", self._name)

        def am_let_in(_: int) -> bool:
            host = self._read(self._folder / "host") or {"let_in": {}}
            if host["let_in"].get(str(self.rank)) != self._name:
                return False
            self._room = self._folder / host["room"]
            return True

        self._wait_for(am_let_in, "start", [0])
        self._write(self._room / f"entered-{self.rank}", self._name)

    def _wait_for(self, has_come: Callable[[int], bool], step: str, ranks: Iterable[int] | None = None) -> None:
        """Until `has_come` of all `ranks`. One that has not and shows no sign of life for too long ends the wait."""
        missing = list(range(self.size) if ranks is None else ranks)
        begun = time.monotonic()
        signs: dict[int, tuple[Any, float]] = dict.fromkeys(missing, (None, begun))
        told = False
        while missing := [rank for rank in missing if not has_come(rank)]:
            now = time.monotonic()
            for rank in missing:
                if (why := self._read(self._room / f"failed-{rank}")) is not None:
                    raise DataError(f"rank {rank} of {self.size} ended with an error: {why}")
                sign = self._read(self._room / f"alive-{rank}")
                if sign != signs[rank][0]:
                    signs[rank] = (sign, now)
                if now - signs[rank][1] > self._patience:
                    raise DataError(
                        f"rank {rank} of {self.size} has given no sign of life for {self._patience:g} s (waited for: "
                        f"{step}). If it was killed, start the same command again: what is done stays done. If it is "
                        "only slow to start, give it longer with --patience"
                    )
            if not told and now - begun > _SILENT_WAIT_S:
                some = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
                print(f"rank {self.rank} waits for rank {some}: {step}", file=sys.stderr)
                told = True
            time.sleep(_POLL_S)

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(_BEAT_S if count else 0):
            count += 1
            self._write(self._room / f"alive-{self.rank}", count)

    def _write(self, file: Path, content: Any) -> None:
        temporary = file.with_name(f".{file.name}-{self._name}")
        try:
            temporary.write_text(json.dumps([content]))
            os.replace(temporary, file)
        except OSError as error:
            # To the others this is silence, after which they end. That the folder is gone only means that they have.
            if self._room.is_dir():
                print(f"rank {self.rank} cannot write {file} ({error})", file=sys.stderr)

    def _read(self, file: Path) -> Any:
        """What a rank wrote, None where it has not (yet)."""
        try:
            return json.loads(file.read_text())[0]
        except (OSError, ValueError):
            return None
