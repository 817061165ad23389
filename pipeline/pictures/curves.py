"""Pictures of a run, for those who would rather look than read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tubelet.video import contact_sheet

from ..training.logs import read_log


def draw_clips(clips: torch.Tensor, labels: list[str], path: Path, most: int = 8) -> None:
    """Contact sheet of up to `most` clips, uint8 (N, T, H, W, 3), with their labels."""
    contact_sheet(clips[:most].numpy(), labels[:most]).save(path)


def draw_curves(run: Path, path: Path) -> None:
    """Loss, accuracy, learning rate and speed of a run over its steps, from its log."""
    # Not for the processes that draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_log(run)
    training = [line for line in lines if line["kind"] == "train"]
    evaluated = [line for line in lines if line["kind"] == "eval"]
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    (loss, accuracy), (rate, speed) = figure.subplots(2, 2)
    _plot(loss, training, "loss", "training loss", "C0")
    loss.set_ylim(bottom=0)
    _plot(accuracy, training, "top1", "training clips, augmented", "C0", 100)
    _plot(accuracy, evaluated, "video_top1", "validation videos", "C3", 100, marker="o")
    accuracy.set_ylim(0, 102)
    accuracy.set_ylabel("top-1 (%)")
    _plot(rate, training, "lr", "learning rate", "C2")
    _plot(speed, training, "clips_per_s", "clips per second", "C0")
    _plot(speed, training, "data_wait", "time spent waiting for data (%)", "C1", 100)
    speed.set_ylim(bottom=0)
    for axes in (loss, accuracy, rate, speed):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.suptitle(run.resolve().name)
    figure.savefig(path, dpi=110)


def _plot(axes: Any, lines: list[dict], key: str, label: str, colour: str, scale: float = 1, **style: Any) -> None:
    lines = [line for line in lines if line.get(key) is not None]
    if lines:
        steps, values = [line["step"] for line in lines], [scale * line[key] for line in lines]
        axes.plot(steps, values, label=label, color=colour, **style)
