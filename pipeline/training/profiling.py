"""A trace of some steps, to look at in chrome://tracing or Perfetto."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

FIRST, LAST = 10, 20


class Profile:
    """Traces the steps from the `FIRST` to the `LAST` of this start of the run, on rank 0. Does nothing with
    `enabled` False."""

    def __init__(self, run: Path, enabled: bool):
        self.file = run / "profile" / f"steps-{FIRST}-{LAST}.json.gz"
        self.written = False
        self._profile: profile | None = None
        if enabled:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            plan = schedule(wait=FIRST - 1, warmup=1, active=LAST - FIRST, repeat=1)
            self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write)
            self._profile.start()

    def step(self) -> None:
        if self._profile is not None:
            self._profile.step()

    def close(self) -> str | None:
        """What to tell, or None."""
        if self._profile is None:
            return None
        self._profile.stop()
        self._profile = None
        return f"the profile is in {self.file}" if self.written else f"no profile: the run has not {FIRST} steps"

    def _write(self, traced: profile) -> None:
        self.file.parent.mkdir(exist_ok=True)
        traced.export_chrome_trace(str(self.file))
        self.written = True
