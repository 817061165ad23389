"""Steps whose loss is no number, or far from the others: which videos they were made of."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from tubelet.datasets import Position, ShardedSplit, TrainOrder, epoch_order

from ..errors import RunError

FILE = "nonfinite.jsonl"
_WINDOW, _FEWEST = 200, 30  # steps that a spike is measured by
_SIGMAS = 6.0


class Anomalies:
    """Looks at the losses of steps, some steps late so that nothing waits for the device: a step whose gradients are no
    numbers has changed nothing. most: so many of them in a row are passed over."""

    def __init__(self, run: Path, split: ShardedSplit, order: TrainOrder, most: int, writes: bool):
        self.file = run / FILE
        self.split, self.order, self.most, self.writes = split, order, most, writes
        self.passed = 0  # steps left out so far
        self._in_a_row = 0
        self._recent: deque[float] = deque(maxlen=_WINDOW)

    def take(self, losses: list[tuple[Position, float]], last_step: int) -> list[dict[str, Any]]:
        """The spikes among the losses of the steps up to `last_step`, for the log. Raises RunError where too many in a
        row are no numbers; their videos are then in the run's nonfinite.jsonl."""
        spikes = []
        first = last_step - len(losses) + 1
        for step, (position, loss) in enumerate(losses, first):
            if not math.isfinite(loss):
                self._pass_over(step, position, loss)
                continue
            self._in_a_row = 0
            if len(self._recent) >= _FEWEST:
                mean, spread = np.mean(self._recent), np.std(self._recent)
                if loss > mean + _SIGMAS * max(spread, 1e-3 * abs(mean)):
                    spikes.append({"step": step, "loss": loss, "usual": float(mean), "keys": self.keys(position)})
            self._recent.append(loss)
        return spikes

    def _pass_over(self, step: int, position: Position, loss: float) -> None:
        self.passed += 1
        self._in_a_row += 1
        if self.writes:
            line = {"step": step, "epoch": position.epoch, "consumed": position.consumed, "loss": str(loss)}
            with self.file.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({**line, "keys": self.keys(position)}) + "\n")
        if self._in_a_row > self.most:
            raise RunError(
                f"the loss is {loss} at step {step}, as in the {self._in_a_row - 1} steps before it (--max-nonfinite "
                f"{self.most}). Nothing of them is in the weights; {self.file} names the videos of each. Lower --lr, "
                "lengthen --warmup-epochs or look at the videos, and go on with --resume auto"
            )

    def keys(self, position: Position) -> list[str]:
        """The videos of the step that began at `position`, before bad ones were replaced."""
        order = epoch_order(self.order.count, self.order.seed, position.epoch, self.order.balance)
        videos = order[position.consumed : position.consumed + self.order.step_samples]
        return [self.split.key(int(video)) for video in videos]
