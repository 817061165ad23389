"""Which classes a mirrored video has: `left to right` seen in a mirror is `right to left`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from ..errors import ConfigError

_ANTICLOCKWISE = re.compile(r"(counter|anti)[-_ ]?clockwise")
_SIDES = re.compile(r"(?<![a-z])(left|right|clockwise|anticlockwise)(?![a-z])")
_OPPOSITE = {"left": "right", "right": "left", "clockwise": "anticlockwise", "anticlockwise": "clockwise"}


@dataclass(frozen=True)
class Mirroring:
    """partners (classes,) int64: the class of a mirrored video of each class, mostly the class itself; -1 where there
    is none, so that no such video is mirrored."""

    classes: Sequence[str]
    partners: np.ndarray

    @classmethod
    def of(cls, classes: Sequence[str], pairs: str) -> Mirroring:
        """pairs: "auto" finds them by the words left and right, clockwise and anticlockwise; "none" takes mirroring to
        change no class; otherwise a YAML file, a list of pairs `[class, class]` and of classes never to be mirrored.
        Raises ConfigError for a file that is none or names other classes."""
        if pairs == "none":
            return cls(classes, np.arange(len(classes)))
        return cls(classes, _by_words(classes) if pairs == "auto" else _from_file(classes, Path(pairs)))

    def draw(
        self, labels: torch.Tensor, probability: float, rng: np.random.Generator
    ) -> tuple[list[bool], torch.Tensor]:
        """For labels (B,) int64 or (B, classes) bool on the CPU: which clips to mirror, (B,) bool, and the labels they
        then have. A clip with a label that has no partner stays as it is."""
        drawn = torch.from_numpy(rng.uniform(size=len(labels)) < probability)
        partners, alone = torch.from_numpy(self.partners), torch.from_numpy(self.partners < 0)
        if labels.ndim == 1:
            mirrored = drawn & ~alone[labels]
            return mirrored.tolist(), torch.where(mirrored, partners[labels], labels)
        mirrored = drawn & ~labels[:, alone].any(1)
        # Partners are mutual: the class that a column goes to is also the one it comes from.
        swapped = labels[:, torch.where(alone, torch.arange(len(alone)), partners)]
        return mirrored.tolist(), torch.where(mirrored.view(-1, 1), swapped, labels)

    def __str__(self) -> str:
        """What is special, for a person; empty where nothing is."""
        swaps = [(i, int(j)) for i, j in enumerate(self.partners) if i < j]
        single = [i for i, j in enumerate(self.partners) if j < 0]
        said = [f"mirroring swaps {self.classes[i]!r} and {self.classes[j]!r}" for i, j in swaps]
        said += [f"{self.classes[i]!r} is never mirrored" for i in single]
        return "; ".join(said) + " (--flip-pairs)" if said else ""


def _by_words(classes: Sequence[str]) -> np.ndarray:
    names = [_ANTICLOCKWISE.sub("anticlockwise", name.lower()) for name in classes]
    numbers = {name: number for number, name in enumerate(names)}
    partners = np.arange(len(classes))
    for number, name in enumerate(names):
        swapped = _SIDES.sub(lambda word: _OPPOSITE[word[1]], name)
        if swapped != name:
            partners[number] = numbers.get(swapped, -1)
    # Of classes that differ only in how they are spelled one is the partner: the others have none.
    back = np.where(partners < 0, -1, partners[partners])
    return np.where(back == np.arange(len(classes)), partners, -1)


def _from_file(classes: Sequence[str], path: Path) -> np.ndarray:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"--flip-pairs {path}: is neither auto nor none nor a readable YAML file ({' '.join(str(error).split())})"
        ) from error
    listed = entries if isinstance(entries, list) else [entries]
    groups = [entry if isinstance(entry, list) else [entry] for entry in listed]
    if any(len(group) not in (1, 2) or not all(isinstance(name, str) for name in group) for group in groups):
        raise ConfigError(
            f"--flip-pairs {path}: give a list of pairs [class, class] and of classes never to be mirrored"
        )
    partners = np.arange(len(classes))
    numbers = {name: number for number, name in enumerate(classes)}
    names = [name for group in groups for name in group]
    for name in names:
        if name not in numbers:
            near = difflib.get_close_matches(name, classes, n=1)
            mend = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"--flip-pairs {path}: {name!r} is no class of the dataset{mend}")
        if names.count(name) > 1:
            raise ConfigError(f"--flip-pairs {path}: {name!r} stands there twice")
    for group in groups:
        for name, partner in zip(group, reversed(group), strict=True):
            partners[numbers[name]] = numbers[partner] if len(group) == 2 else -1
    return partners
