"""What a run says: a progress bar for a person, JSON lines for a program, TensorBoard and W&B for the eye."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import ConfigError
from ..files import write_text

LOG_FILE = "log.jsonl"


class RunLog:
    """Rank 0's log of a run. `start` is the step it begins at: later lines of a run that died are dropped, since the
    run that goes on from its checkpoint writes them again."""

    def __init__(self, run: Path, start: int, total: int, config: dict[str, Any], wandb_project: str | None):
        from torch.utils.tensorboard import SummaryWriter  # not for the other ranks

        self._path = run / LOG_FILE
        if self._path.exists():
            kept = [line for line in _lines(self._path) if line["step"] <= start]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
        self._wandb = _start_wandb(wandb_project, run, config)
        # tqdm is silent where there is no terminal; there a line per epoch is enough.
        self._bar = tqdm(total=total, initial=start, desc="training", unit=" steps", disable=None, smoothing=0.05)

    def advance(self) -> None:
        self._bar.update()

    def write(self, step: int, kind: str, **values: Any) -> None:
        """One line of the log. kind: train or eval; values: numbers, or counts by name. What is no number is null."""
        values = {key: None if isinstance(value, float) and not math.isfinite(value) else value
                  for key, value in values.items()}  # fmt: skip
        self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._file.flush()
        numbers = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, int | float)}
        for key, value in numbers.items():
            self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)
        if values.get("loss") is not None:
            self._bar.set_postfix_str(f"loss {values['loss']:.3f}, {values['clips_per_s']:.0f} clips/s", refresh=False)

    def spike(self, spike: dict[str, Any]) -> None:
        """A step whose loss stands out, with the videos it was made of."""
        self._file.write(json.dumps({"kind": "spike", **spike}) + "\n")
        self._file.flush()
        loss, usual = spike["loss"], spike["usual"]
        self.say(f"the loss of step {spike['step']} is {loss:.3g} after {usual:.3g}: its videos are in the log")

    def say(self, text: str) -> None:
        """A line for a person, above the bar."""
        self._bar.clear()
        print(text, flush=True)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, oldest first."""
    return _lines(run / LOG_FILE)


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # the last line of a run that was killed while it wrote
            break
    return lines


def _start_wandb(project: str | None, run: Path, config: dict[str, Any]) -> Any:
    if project is None:
        return None
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("--wandb: Weights & Biases is not installed. pip install 'tubelet[wandb]'") from error
    return wandb.init(project=project, dir=str(run), config=config, name=run.name)
