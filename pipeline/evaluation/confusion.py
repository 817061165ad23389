"""What is taken for what."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Confused:
    """Of the `of` videos of class `label`, `videos` are taken for class `predicted`."""

    label: str
    predicted: str
    videos: int
    of: int

    def __str__(self) -> str:
        return f"{self.label} for {self.predicted} ({self.videos} of {self.of})"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) int64: how many videos of the class of a row are taken for that of a column."""
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def most_confused(counts: np.ndarray, classes: list[str], most: int = 10) -> list[Confused]:
    """The pairs with the most videos, the larger share of its class first where they have as many."""
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    of = counts.sum(1)
    rows, columns = np.nonzero(wrong)
    found = wrong[rows, columns]
    order = np.lexsort((columns, rows, -found / of[rows], -found))[:most]
    return [
        Confused(classes[row], classes[column], int(wrong[row, column]), int(of[row]))
        for row, column in zip(rows[order], columns[order], strict=True)
    ]


def neighbours_first(counts: np.ndarray) -> np.ndarray:
    """The classes in an order in which those that are confused lie side by side, (classes,).

    That of the Fiedler vector of the graph of confusions (Atkins, Boman & Hendrickson 1998, "A spectral algorithm for
    seriation and the consecutive ones problem"), which has an edge of almost no weight between all, to be connected.
    """
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    weights = shares + shares.T + 1e-6
    np.fill_diagonal(weights, 0.0)
    laplacian = np.diag(weights.sum(1)) - weights
    vector = np.linalg.eigh(laplacian)[1][:, min(1, classes - 1)]
    # A vector and its negative are one: the order is that in which class 0 is in the first half.
    return np.argsort(vector if vector[0] <= 0 else -vector, kind="stable")
