"""Which parameters train, and how fast each: layer-wise rates, what weight decay leaves alone, what is frozen."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tubelet.backbones import Model

from ..config import OptimConfig
from ..errors import ConfigError


def parameter_groups(model: Model, optim: OptimConfig) -> list[dict[str, Any]]:
    """The optimiser's groups: `params`, `weight_decay`, and `lr_scale`, the factor of their learning rate.

    The rate falls by `layer_decay` from each layer to the one before it (Bao et al. 2022, "BEiT", app. D), and the
    head's is `head_lr` times the others'. Vectors (biases, norms) and what the model names have no weight
    decay, unless `norm_decay` says that vectors do.
    """
    layers = model.layer_groups()
    layer_of = {name: number for number, names in enumerate(layers) for name in names}
    exempt = model.no_weight_decay()
    head = _head_names(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = name in exempt or (parameter.ndim <= 1 and not optim.norm_decay)
        scale = optim.layer_decay ** (len(layers) - 1 - layer_of[name])
        if name in head:
            scale *= optim.head_lr
        groups.setdefault((scale, 0.0 if spared else optim.weight_decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (scale, decay), parameters in groups.items()
    ]


def freeze(model: Model, tune: str) -> str:
    """Fixes what `tune` leaves out (full: nothing; head: all but the head; a number: all but so many last layers and
    the head). Returns a line for the log. Raises ConfigError for more layers than there are."""
    if tune != "full":
        layers = model.layer_groups()
        head = _head_names(model)
        count = 0 if tune == "head" else int(tune)
        bodies = [names for names in layers if not set(names) <= head]
        if count > len(bodies):
            raise ConfigError(f"--tune {tune}: the model has {len(bodies)} layers besides its head")
        trained = head.union(*bodies[len(bodies) - count :]) if count else head
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return f"{sum(n for n, trains in sizes if trains):,} of {sum(n for n, _ in sizes):,} parameters are trained"


def set_training(model: nn.Module, freeze_norms: bool) -> None:
    """Training mode, but for what is frozen: dropout is off there and the statistics of norms stay."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        if frozen or (freeze_norms and isinstance(module, _BatchNorm)):
            module.eval()


def _head_names(model: Model) -> set[str]:
    return {f"head.{name}" for name, _ in model.head.named_parameters()}
