"""What stored embeddings tell of the classes: a linear probe and nearest neighbours, on each video's mean vector."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro

from tubelet.datasets import DataError

from ..config import Count, Natural, NotNegative
from ..errors import ConfigError
from .parts import Index

_ROWS = 65_536
_QUERIES = 1024  # that are compared with all others at once
_TEMPERATURE = 0.07


@dataclass(frozen=True)
class ProbeConfig:
    embeddings: tyro.conf.Positional[Path]
    """Folder that `tubelet embed` made."""
    neighbours: Count = 10
    """Neighbours that vote."""
    l2: NotNegative = 1e-3
    """Weight decay of the linear probe, on standardised features."""
    folds: Count = 5
    """Parts of a cross-validation, where the videos are not divided into train and val (or test)."""
    seed: Natural = 0
    """Decides the folds."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Probed:
    """Shares of videos that are right, from 0 to 1; of a cross-validation, means over the folds and their standard
    deviations. how: what was learnt from and what was tried on."""

    linear: float
    linear_std: float
    knn: float
    knn_std: float
    chance: float
    classes: int
    how: str

    def __str__(self) -> str:
        def share(mean: float, std: float) -> str:
            return f"{mean:.2%}" + (f" ± {std:.2%}" if std else "")

        return (
            f"linear probe {share(self.linear, self.linear_std)}, nearest neighbours {share(self.knn, self.knn_std)} "
            f"({self.classes} classes, the commonest {self.chance:.2%}; {self.how})"
        )


@dataclass(frozen=True)
class Labelled:
    """vectors (N, features) and labels (N,) of videos; splits: of each, "" without one."""

    vectors: torch.Tensor
    labels: torch.Tensor
    splits: np.ndarray
    classes: list[str]


def probe(config: ProbeConfig) -> Probed:
    """Learns from the videos of `train` and tries on those of `val`, or `test`; without such splits, by stratified
    cross-validation. Raises DataError where there is nothing to tell apart, ConfigError for several labels a video."""
    data = read_labelled(Index(config.embeddings))
    held_out = next((name for name in ("val", "test") if (data.splits == name).any()), None)
    if held_out is not None and (data.splits == "train").any():
        trials = [(data.splits == "train", data.splits == held_out)]
        how = f"{trials[0][0].sum()} videos of train, {trials[0][1].sum()} of {held_out}"
    else:
        trials = list(folds(data.labels.numpy(), config.folds, config.seed))
        how = f"{len(trials)}-fold cross-validation over {len(data.labels)} videos"
    results = np.array([_accuracies(data, learn, tried, config) for learn, tried in trials])
    (linear, knn), (linear_std, knn_std) = results.mean(0).tolist(), results.std(0).tolist()
    chance = float(torch.bincount(data.labels).max()) / len(data.labels)
    return Probed(linear, linear_std, knn, knn_std, chance, len(data.classes), how)


def text(probed: Probed, as_json: bool) -> str:
    return json.dumps(asdict(probed), indent=1) if as_json else str(probed)


def read_labelled(index: Index) -> Labelled:
    """The mean vector of each video that has a label."""
    if index.multilabel:
        raise ConfigError(f"{index.folder}: its videos have several labels each, and a probe tells single ones apart")
    sums: dict[tuple[str, str], list] = {}
    for batch, vectors in index.batches(_ROWS):
        columns = [batch.column(name).to_pylist() for name in ("split", "key", "label")]
        for split, key, label, vector in zip(*columns, vectors, strict=True):
            if label is not None:
                entry = sums.setdefault((split or "", key), [np.zeros(len(vector)), 0, label])
                entry[0] += vector
                entry[1] += 1
    classes = sorted({label for _, _, label in sums.values()})
    if len(classes) < 2:
        raise DataError(f"{index.folder}: has labels of {len(classes)} classes, and there is nothing to tell apart")
    numbers = {name: number for number, name in enumerate(classes)}
    means = torch.from_numpy(np.stack([total / count for total, count, _ in sums.values()])).float()
    labels = torch.tensor([numbers[label] for _, _, label in sums.values()])
    return Labelled(means, labels, np.array([split for split, _ in sums]), classes)


def folds(labels: np.ndarray, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(learn, try) masks (N,) of each fold: every video is tried once, and each class is spread evenly.

    Raises DataError where the commonest class has fewer videos than there are folds, ConfigError for less than two."""
    if count < 2:
        raise ConfigError("--folds 1: a cross-validation has at least 2")
    if (most := np.bincount(labels).max()) < count:
        raise DataError(f"{count} folds need {count} videos of a class, and the commonest has {most}: lower --folds")
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]  # class by class, each in random order
    fold = np.empty(len(labels), np.int64)
    fold[dealt] = np.arange(len(labels)) % count
    yield from ((fold != number, fold == number) for number in range(count))


def _accuracies(data: Labelled, learn: np.ndarray, tried: np.ndarray, config: ProbeConfig) -> tuple[float, float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vectors, labels = data.vectors.to(device), data.labels.to(device)
    learn_, tried_ = (torch.from_numpy(np.flatnonzero(mask)).to(device) for mask in (learn, tried))

    def right(predict: Callable[..., torch.Tensor], *settings: float) -> float:
        told = predict(vectors[learn_], labels[learn_], vectors[tried_], len(data.classes), *settings)
        return (told == labels[tried_]).float().mean().item()

    return right(linear, config.l2), right(knn, config.neighbours)


def linear(vectors: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, classes: int, l2: float) -> torch.Tensor:
    """Classes (M,) of `queries` by logistic regression on standardised features, fitted by L-BFGS: convex, so that no
    chance is in it."""
    mean, std = vectors.mean(0), vectors.std(0).clamp_min(1e-6)
    known, asked = (vectors - mean) / std, (queries - mean) / std
    weight = torch.zeros(classes, known.shape[1], device=known.device, requires_grad=True)
    bias = torch.zeros(classes, device=known.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(known, weight, bias), labels) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return F.linear(asked, weight, bias).argmax(1).detach()


def knn(
    vectors: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, classes: int, neighbours: int
) -> torch.Tensor:
    """Classes (M,) of `queries`: the nearest by cosine vote, each by exp(cosine / 0.07) (Wu et al. 2018, "Unsupervised
    feature learning via non-parametric instance discrimination", section 3.4)."""
    known = F.normalize(vectors, dim=1)
    votes = F.one_hot(labels, classes).float()
    told = []
    for some in F.normalize(queries, dim=1).split(_QUERIES):
        similar, rows = (some @ known.T).topk(min(int(neighbours), len(known)), dim=1)
        weights = ((similar - similar[:, :1]) / _TEMPERATURE).exp()
        told.append((weights[..., None] * votes[rows]).sum(1).argmax(1))
    return torch.cat(told)
