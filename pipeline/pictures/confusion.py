"""The confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..evaluation.confusion import neighbours_first

NUMBERED = 20
"""Up to so many classes each cell has its number, and they keep their order; more are ordered by what is confused."""
_CELL = 0.5, 0.085  # inches of a class's row, few classes and many


def draw_confusion(counts: np.ndarray, classes: list[str], path: Path) -> None:
    """counts: (classes, classes), rows are the labels. Rows are shown as shares, small ones stretched; every class has
    its name, so that of four hundred the picture is large and meant to be zoomed into."""
    # Not for the processes that draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    few = len(classes) <= NUMBERED
    order = np.arange(len(classes)) if few else neighbours_first(counts)
    counts, names = counts[np.ix_(order, order)], [classes[number] for number in order]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(_CELL[0] if few else _CELL[1], 3 / len(classes)) * len(classes)
    font = 9 if few else 5
    margin = 1.0 + max(map(len, names)) * font * 0.009
    figure = Figure(figsize=(side + margin + 1, side + margin), layout="constrained", dpi=110 if few else 150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    scale = figure.colorbar(picture, ax=axes, fraction=0.03, pad=0.02, label="share of the label's videos")
    scale.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5%", "20%", "50%", "100%"])
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90, fontsize=font)
    axes.set_yticks(places, names, fontsize=font)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.tick_params(length=0)
    if few:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.4 else "black"
            number = str(counts[row, column])
            axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=font)
    figure.savefig(path)
