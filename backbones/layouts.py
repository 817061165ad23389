"""Which publisher's names a set of weights has, and what they are called here. Recognised by the keys themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class WeightsError(ValueError):
    """Weights that cannot be read, or do not belong to the model; the message names the cause and the mend."""


def no_settings(state: State) -> dict[str, object]:
    """Where shapes tell all of a publisher's network, or its settings are ours."""
    return {}


@dataclass(frozen=True)
class Layout:
    """One publisher's naming of one network.

    A state dict has this layout if every pattern of `marks` is found in some key of it and none of `never` is;
    `convert` renames it to our names. Where the names alone do not tell two networks apart, `axes` says how many axes
    a tensor of some pattern must have. `settings` gives, of a state under our names, those arguments of `create_model`
    that the publisher's network has and no shape shows.
    """

    name: str
    marks: tuple[str, ...]
    convert: Callable[[State], State]
    never: tuple[str, ...] = ()
    axes: tuple[tuple[str, int], ...] = ()
    settings: Callable[[State], dict[str, object]] = no_settings

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        if not all(_found(mark, state) for mark in self.marks) or any(_found(mark, state) for mark in self.never):
            return False
        return all(any(re.search(p, key) and state[key].ndim == count for key in state) for p, count in self.axes)


@dataclass
class LoadReport:
    """What `load_weights` did: our names, of `total` in the model; the values of the dicts say how or why.

    Of an image network's weights, `inflated` were given time, `copied` serve a second time, `dropped` have no use in
    the video network, and `initialised` are new in it.
    """

    source: str
    layout: str = ""
    total: int = 0
    loaded: list[str] = field(default_factory=list)
    inflated: dict[str, str] = field(default_factory=dict)
    copied: dict[str, str] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    initialised: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.layout}, {len(self.loaded)} of {self.total} tensors loaded"]
        lines += [f"  {verb}: {text}" for verb, text in self._changes() if text]
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def _changes(self) -> list[tuple[str, str]]:
        told = [
            ("inflated", self.inflated),
            ("copied", self.copied),
            ("resized", self.resized),
            ("dropped", self.dropped),
        ]
        changes = [(verb, "; ".join(f"{k} ({v})" for k, v in summarise_names(names).items())) for verb, names in told]
        fresh = summarise_names(dict.fromkeys(self.initialised, ""))
        return [*changes, ("left as initialised", ", ".join(fresh))]


@dataclass(frozen=True)
class WeightRules:
    """How weights reach one family of models.

    layouts: the namings it knows, the most particular first. fit: (model, state under our names, report) -> state
    that fits the model, resized and completed by the family's rules. traits: the architecture that a state under our
    names shows.
    """

    layouts: tuple[Layout, ...]
    fit: Callable[[nn.Module, State, LoadReport], State]
    traits: Callable[[Mapping[str, Tensor]], dict[str, object]]


def as_it_is(model: nn.Module, state: State, report: LoadReport) -> State:
    """The `fit` of a family whose weights need nothing but our names."""
    return state


def renamer(*rules: tuple[str, str]) -> Callable[[State], State]:
    """A conversion that applies each (pattern, replacement) to every key, in order."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(key: str) -> str:
        for pattern, replacement in compiled:
            key = pattern.sub(replacement, key)
        return key

    return lambda state: {rename(key): value for key, value in state.items()}


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same names with tensors that have a shape and no values, for what only looks at shapes."""
    return {key: torch.empty_like(value, device="meta") for key, value in weights.items()}


def recognise(layouts: tuple[Layout, ...], state: State) -> Layout | None:
    """The first layout that the keys fit, or None."""
    return next((layout for layout in layouts if layout.fits(state)), None)


def summarise_names(names: Mapping[str, str]) -> dict[str, str]:
    """Fold names that differ only in a block's number: `blocks.*.attn.qkv.weight x12`."""
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(name)
    return {
        (f"{pattern} x{len(members)}" if len(members) > 1 else members[0]): re.sub(r"\.\d+\.", ".*.", names[members[0]])
        for pattern, members in folded.items()
    }


def _found(pattern: str, state: Mapping[str, Tensor]) -> bool:
    return any(re.search(pattern, key) for key in state)
