"""Charts as SVG for a page: they take its colours, light or dark, and need no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from ..evaluation.confusion import neighbours_first
from .confusion import NUMBERED

_WIDTH, _HEIGHT = 460, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 24
_MOST_POINTS = 300  # of a line: more lie closer than a pixel


@dataclass(frozen=True)
class Line:
    """values: (step, value), of which those that are no number are left out; colour: a class of the page's style;
    dots: whether each value is marked."""

    name: str
    values: Sequence[tuple[float, float | None]]
    colour: str
    dots: bool = False

    def points(self) -> np.ndarray:
        """(n, 2), of long runs the means of neighbours."""
        finite = [(x, y) for x, y in self.values if y is not None and math.isfinite(y)]
        points = np.array(finite, np.float64).reshape(-1, 2)
        if len(points) <= _MOST_POINTS or self.dots:
            return points
        return np.array([part.mean(0) for part in np.array_split(points, _MOST_POINTS)])


def line_chart(title: str, lines: Sequence[Line], *, unit: str = "", zero: bool = False) -> str:
    """A figure of lines over steps; empty where there is nothing to draw. zero: the axis begins at 0."""
    drawn = [(line, points) for line in lines if len(points := line.points())]
    if not drawn:
        return ""
    everything = np.concatenate([points for _, points in drawn])
    (left, low), (right, high) = everything.min(0), everything.max(0)
    xs = _ticks(left, right)
    ys = _ticks(0.0 if zero else low, high)
    left, right, low, high = min(left, xs[0]), max(right, xs[-1]), ys[0], ys[-1]

    def place(points: np.ndarray) -> np.ndarray:
        across = _LEFT + (points[:, 0] - left) / max(right - left, 1e-12) * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - (points[:, 1] - low) / max(high - low, 1e-12) * (_HEIGHT - _TOP - _BOTTOM)
        return np.stack([across, down], 1)

    parts = []
    for tick in ys:
        y = place(np.array([[left, tick]]))[0, 1]
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}{unit}</text>')
    for tick in xs:
        x = place(np.array([[tick, low]]))[0, 0]
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<text x="{_LEFT - 6}" y="{_HEIGHT - 6}" text-anchor="end">step</text>')
    for line, points in drawn:
        at = place(points)
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
        parts.append(f'<path class="line {line.colour}" d="M{path}"/>')
        if line.dots or len(at) == 1:
            parts += [f'<circle class="{line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in at]
    legend = "".join(f'<span class="{line.colour}">{escape(line.name)}</span>' for line, _ in drawn)
    return (
        f'<figure class="card"><figcaption><b>{escape(title)}</b>{legend}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def _ticks(low: float, high: float) -> list[float]:
    if high <= low:
        low, high = low - (abs(low) / 10 or 0.5), high + (abs(high) / 10 or 0.5)
    return [float(tick) for tick in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if 0 < abs(value) < 0.01:  # 7.5e-4, which has room beside the axis
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.4g}"


def matrix_chart(counts: np.ndarray, classes: Sequence[str]) -> str:
    """The confusion matrix (classes, classes), rows are the labels, as an SVG: with names and numbers where there are
    few classes; of many, those that are confused side by side. Each cell says what it is under the pointer."""
    few = len(classes) <= NUMBERED
    order = np.arange(len(classes)) if few else neighbours_first(counts)
    cell = 44 if few else max(2.0, 640 / len(classes))
    of = counts.sum(1)
    label = min(max(map(len, classes)), 22) * 6.4 + 8 if few else 0
    side = label + cell * len(classes)
    parts = [f'<rect class="field" x="{label:g}" y="{label:g}" width="{side - label:g}" height="{side - label:g}"/>']
    place = {number: at for at, number in enumerate(order.tolist())}
    for row, column in zip(*np.nonzero(counts), strict=True):
        x, y = label + cell * place[int(column)], label + cell * place[int(row)]
        kind = "hit" if row == column else "miss"
        share = float(counts[row, column] / of[row])
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
            f'fill-opacity="{math.sqrt(share):.2f}"><title>{escape(classes[row])} taken for {escape(classes[column])}: '
            f"{counts[row, column]} of {of[row]}</title></rect>"
        )
        if few:
            ink = " strong" if share > 0.35 else ""
            at = f'x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}"'
            parts.append(f'<text class="count{ink}" {at} text-anchor="middle">{counts[row, column]}</text>')
    for number in order.tolist() if few else []:
        middle, name = label + cell * (place[number] + 0.5), escape(_cut(classes[number], 22))
        parts.append(f'<text x="{label - 6:.1f}" y="{middle + 4:.1f}" text-anchor="end">{name}</text>')
        turned = f'transform="translate({middle + 4:.1f} {label - 6:.1f}) rotate(-90)"'
        parts.append(f"<text {turned}>{name}</text>")
    width = min(side, 720)
    return (
        f'<svg class="matrix" viewBox="0 0 {side:.1f} {side:.1f}" style="max-width:{width:.0f}px" role="img" '
        f'aria-label="confusion matrix">{"".join(parts)}</svg>'
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def series(lines: Sequence[dict[str, Any]], key: str, scale: float = 1.0) -> list[tuple[float, float | None]]:
    """(step, value) of the lines of a log that have `key`."""
    found = [(line["step"], line.get(key)) for line in lines]
    return [(step, None if value is None else scale * value) for step, value in found]
