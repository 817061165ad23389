"""An exponential moving average of the weights, often better than the last ones (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average of a model's parameters, fp32, on their device. Its buffers are the model's own.

    decay: share that stays in a step; less at first, so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._parameters = dict(model.named_parameters())
        self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """step: optimiser steps so far, this one included."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._averages.values()), list(self._parameters.values()), weight)

    def load(self, state: dict[str, Tensor]) -> None:
        """Goes on from the average that `state`, tensors by name, holds."""
        for name, average in self._averages.items():
            average.copy_(state[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it, the model computes with the average."""
        trained = {name: parameter.data for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.data = self._averages[name]
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = trained[name]
