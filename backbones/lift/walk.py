"""The walk that gives an image network time: a rule, asked about every module, replaces those that must change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

Rule = Callable[[str, nn.Module], nn.Module | None]
"""(dotted name, module) -> its replacement, or None to look further inside it."""


@dataclass
class LiftReport:
    """What became of an image network's tensors (parameters and buffers), by their dotted names.

    `carried` hold what the image network held; `created` are new; `unused` are those of the image network that have
    no place in the video network. A tensor is carried if it keeps its name and, but for an axis of time, its shape.
    """

    carried: list[str] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def lift(network: nn.Module, rule: Rule) -> LiftReport:
    """Replace, in place, every module inside `network` for which `rule` has a replacement, and say what was carried.

    The walk goes from the outside in and does not enter what it has replaced. A module that is used in several
    places is replaced once, and stays shared.
    """
    before = network.state_dict()
    _walk(network, "", rule, {})
    after = network.state_dict()
    report = LiftReport(carried=[key for key in after if key in before and same_but_time(before[key], after[key])])
    carried = set(report.carried)
    report.created = [key for key in after if key not in carried]
    report.unused = [key for key in before if key not in carried]
    return report


def first_of(*rules: Rule) -> Rule:
    """The rule that asks each of `rules` in turn and takes the first replacement."""
    return lambda name, module: next((new for rule in rules if (new := rule(name, module)) is not None), None)


def same_but_time(image: torch.Tensor, video: torch.Tensor) -> bool:
    """Whether two tensors have one shape, or would without the third axis of `video`."""
    return video.shape in (image.shape, (*image.shape[:2], *video.shape[2:3], *image.shape[2:]))


def _walk(parent: nn.Module, prefix: str, rule: Rule, done: dict[nn.Module, nn.Module]) -> None:
    for name, child in list(parent.named_children()):
        if child in done:
            new: nn.Module | None = done[child]
        else:
            new = rule(prefix + name, child)
        if new is None:
            _walk(child, f"{prefix}{name}.", rule, done)
        elif new is not child:
            done[child] = new
            setattr(parent, name, new.train(child.training))
