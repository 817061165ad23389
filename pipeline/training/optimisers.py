"""The optimisers of the field's recipes, each torch's own where torch has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..config import OptimConfig


def build_optimizer(groups: list[dict[str, Any]], optim: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    """On a device, the fused form: one kernel for all parameters, which skips a step itself where a gradient is no
    number (`found_inf`)."""
    if optim.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=True)
    if optim.optimizer == "lamb":
        return Lamb(groups, lr=optim.lr, betas=optim.betas)
    nesterov = optim.nesterov and optim.momentum > 0
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=nesterov, fused=True)


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2020, "Large batch optimization for deep learning", algorithm 2): Adam's step, plus weight
    decay, scaled for each tensor by the ratio of the norms of its weights and of its step. Tensors without weight
    decay, and those that are zero, take Adam's step as it is, as in the authors' code.

    found_inf: set from outside, a tensor that is not 0 where the step is to be skipped.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.found_inf is not None and bool(self.found_inf):
            return loss
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        first, second = group["betas"]
        state["step"] += 1
        count = state["step"].item()  # on the CPU: no wait
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        spread = (state["exp_avg_sq"] / (1 - second**count)).sqrt_().add_(group["eps"])
        change = state["exp_avg"] / (1 - first**count) / spread
        if group["weight_decay"]:
            change.add_(parameter, alpha=group["weight_decay"])
            size, length = parameter.norm(), change.norm()
            ratio = torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size))
            change.mul_(ratio)
        parameter.add_(change, alpha=-group["lr"])
