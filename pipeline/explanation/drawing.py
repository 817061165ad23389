"""Evidence made visible: a film of it, and a picture of frames and scores over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.nn.functional import interpolate

from tubelet.video import encode_video

from ..files import whole

if TYPE_CHECKING:
    from .explain import Evidence

_SIDE = 224  # pixels: smaller frames are enlarged to it, to be seen
_SHOWN = 8  # frames of the picture
_TOP = 5
_STRONGEST = 0.75  # of a colour over the frame, which is never hidden wholly


def write_overlay(frames: np.ndarray, maps: np.ndarray, times: np.ndarray, file: Path) -> None:
    """A film of frames uint8 (F, S, S, 3), and beside it the same with its maps (F, S, S) over it, as fast as the
    video: times (F,) in seconds."""
    side = max(frames.shape[1], _SIDE) // 2 * 2
    pairs = np.empty((len(frames), side, 2 * side, 3), np.uint8)
    for place, (frame, evidence) in enumerate(zip(frames, maps, strict=True)):
        pairs[place, :, :side], pairs[place, :, side:] = (
            _enlarged(frame, side),
            _enlarged(overlaid(frame, evidence), side),
        )
    lasts = float(times[-1] - times[0])
    encode_video(file, pairs, (len(times) - 1) / lasts if lasts > 0 else 1)


def overlaid(frame: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """uint8 (S, S, 3) in grey, coloured where evidence (S, S), from 0 to 1, is: the more, the brighter and thicker."""
    grey = frame.mean(-1, keepdims=True).repeat(3, -1)
    colour = 255 * matplotlib.colormaps["inferno"](0.25 + 0.75 * evidence)[..., :3]
    cover = _STRONGEST * np.sqrt(evidence)[..., None]
    return (grey * (1 - cover) + colour * cover).round().astype(np.uint8)


def draw_sheet(evidence: Evidence, title: str, file: Path) -> None:
    """Frames evenly spread over the video, the evidence over them, and below the scores of the classes that score
    highest in any clip, over time."""
    shown = np.unique(np.linspace(0, len(evidence.frames) - 1, _SHOWN).round().astype(int))
    figure = Figure(figsize=(1.6 * max(len(shown), 5) + 1, 6.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, len(shown), height_ratios=(1, 1, 1.7))
    for column, place in enumerate(shown):
        frame = evidence.frames[place]
        for row, picture in enumerate((frame, overlaid(frame, evidence.maps[place]))):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(picture, interpolation="bilinear")
            axes.set_xticks([])
            axes.set_yticks([])
        axes.set_xlabel(f"{evidence.times[place]:.2f} s", fontsize=9)
    _plot_scores(figure.add_subplot(grid[2, :]), evidence)
    figure.suptitle(title, fontsize=10)
    with whole(file) as part:
        figure.savefig(part)


def _plot_scores(axes: matplotlib.axes.Axes, evidence: Evidence) -> None:
    """A step for each clip where clips follow each other; the class explained is drawn thick, and always there."""
    best = np.argsort(-evidence.scores.max(0), kind="stable")[:_TOP].tolist()
    chosen = best if evidence.label in best else [*best[: _TOP - 1], evidence.label]
    middles = evidence.seconds.mean(1)
    for number in chosen:
        width = 3.0 if number == evidence.label else 1.3
        axes.plot(middles, evidence.scores[:, number], marker="o", markersize=4, linewidth=width,
                  label=evidence.classes[number])  # fmt: skip
    axes.set_xlim(float(evidence.seconds.min()), float(evidence.seconds.max()))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("seconds (each dot is a clip, at its middle)")
    axes.set_ylabel("score")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)


def _enlarged(frame: np.ndarray, side: int) -> np.ndarray:
    """uint8 (S, S, 3) as (side, side, 3)."""
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    return interpolate(pixels, (side, side), mode="bilinear").permute(0, 2, 3, 1)[0].numpy()
