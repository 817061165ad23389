"""What was left out of a dataset and why, and what re-encoding has done to it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..manifest import SPLITS, Video
from .checking import Bad
from .encoding import Encoding
from .work import REPORT_FILE, work_folder

_SHOWN = 20  # bad videos named on the terminal


def write_report(videos: Sequence[Video], bad: Sequence[Bad], encoding: Encoding | None, out: Path) -> None:
    """What is left out, wholly in the report and its beginning on the terminal, and what re-encoding has done."""
    entries = [{"path": str(b.video.path), "start": b.video.start, "end": b.video.end, "cause": b.cause} for b in bad]
    listed, lost = (Counter(video.split for video in some) for some in (videos, [b.video for b in bad]))
    splits = {
        split: {"videos": listed[split], "good": listed[split] - lost[split]} for split in SPLITS if listed[split]
    }
    for split, counts in splits.items():
        if not counts["good"]:
            print(f"{split}: none of its {counts['videos']} videos can be used", file=sys.stderr)
    report = {"videos": len(videos), "good": len(videos) - len(bad), "splits": splits, "bad": entries}
    if encoding:
        report["encoding"] = asdict(encoding)
        print(encoding)
    temporary = work_folder(out) / REPORT_FILE
    temporary.write_text(json.dumps(report, indent=1))
    os.replace(temporary, out / REPORT_FILE)
    if not bad:
        return
    print(f"{len(bad)} of {len(videos)} videos are left out ({out / REPORT_FILE}):", file=sys.stderr)
    for left_out in bad[:_SHOWN]:
        print(f"  {left_out.video}: {left_out.cause}", file=sys.stderr)
    if len(bad) > _SHOWN:
        print(f"  ... and {len(bad) - _SHOWN} more", file=sys.stderr)


def bad_of_all(out: Path) -> tuple[int, int]:
    """How many videos are bad, of how many."""
    report = json.loads((out / REPORT_FILE).read_text())
    return len(report["bad"]), report["videos"]
