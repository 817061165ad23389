"""Bad videos of a training run: counted, named once, kept in a list that later runs take, and bounded in number."""

from __future__ import annotations

import json
import sys
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from tubelet.datasets import QUARANTINED

from ..errors import ConfigError, RunError
from ..files import write_text

QUARANTINE_FILE = "quarantine.jsonl"
_WINDOW = 1000  # samples whose faults are looked at together
_FEWEST = 100  # as many samples are taken for granted, so that one fault among the first few ends nothing


class Faults:
    """The bad videos that all ranks have met, the same on every rank; rank 0 (`writes`) names them.

    RUN/quarantine.jsonl has a line for each: key, cause, the epoch in which it was met first, when. From the second
    epoch after that one on it counts as failed without a try, in this run and in one that goes on from a checkpoint of
    it: so both see the same clips to the last. limit: share of bad samples that ends the run.
    """

    def __init__(self, run: Path, limit: float, writes: bool):
        self.file = run / QUARANTINE_FILE
        self.by_cause: Counter[str] = Counter()
        self.known = read_quarantine(self.file) if self.file.exists() else {}
        self._limit, self._writes = limit, writes
        self._recent: deque[tuple[int, Counter[tuple[str, str]]]] = deque()

    @staticmethod
    def barred_from(epoch: int) -> int:
        """The epoch from which on a video that failed in `epoch` is not tried any more."""
        return epoch + 2

    def take(self, faults: Sequence[tuple[str, str]], epoch: int, samples: int) -> dict[str, int]:
        """Takes in the faults among the last `samples` samples, all of `epoch`. Returns the videos that are new among
        them, with the epoch from which on they are barred. Raises RunError where there are too many."""
        fresh = {}
        for key, cause in faults:
            self.by_cause[cause] += 1
            if cause != QUARANTINED and key not in self.known:
                self.known[key] = epoch
                fresh[key] = self.barred_from(epoch)
                self._name(key, cause, epoch)
        self._bound(Counter(fault for fault in faults if fault[1] != QUARANTINED), samples)
        return fresh

    def _name(self, key: str, cause: str, epoch: int) -> None:
        if not self._writes:
            return
        print(f"bad video {key}: {cause}", file=sys.stderr, flush=True)
        with self.file.open("a", encoding="utf-8") as handle:
            handle.write(_line(key, cause, epoch))

    def _bound(self, faults: Counter[tuple[str, str]], samples: int) -> None:
        self._recent.append((samples, faults))
        total = sum(samples for samples, _ in self._recent)
        while total - self._recent[0][0] >= _WINDOW:
            total -= self._recent.popleft()[0]
        recent = sum((faults for _, faults in self._recent), Counter())
        if recent.total() > self._limit * max(total, _FEWEST):
            causes: Counter[str] = Counter()
            for (_, cause), count in recent.items():
                causes[cause] += count
            cause, count = causes.most_common(1)[0]
            key = next(key for key, its_cause in recent if its_cause == cause)
            raise RunError(
                f"{recent.total()} of the last {total} samples were bad videos, more than --max-faults {self._limit:g} "
                f"allows. {count} times the cause was: {cause} (such as {key}). {self.file} names each. Look after the "
                "disk or prepare the dataset again; --resume auto goes on"
            )


def _line(key: str, cause: str, epoch: int) -> str:
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return json.dumps({"key": key, "cause": cause, "epoch": epoch, "when": when}) + "\n"


def write_quarantine(file: Path, faults: Iterable[tuple[str, str]]) -> None:
    """A list as `read_quarantine` reads it, of (key, cause) found before any training: of epoch 0."""
    write_text(file, "".join(_line(key, cause, 0) for key, cause in faults))


def read_quarantine(file: Path) -> dict[str, int]:
    """The videos of a quarantine list by key, with the epoch in which each failed first. Raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8")
        # What stands behind the last line break was not written to its end.
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return {line["key"]: int(line["epoch"]) for line in lines}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{file}: is not a list of bad videos ({error}). --quarantine takes the {QUARANTINE_FILE} of a training "
            "run, or what `tubelet check --quarantine` wrote"
        ) from error
