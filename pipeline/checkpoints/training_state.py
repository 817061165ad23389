"""Weights and optimiser of an engine as whole tensors by parameter name, however they are divided among processes.

So a run goes on with another number of processes, or at another ZeRO stage, from plain tensors that nothing unpickles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RunError

_WEIGHT = "weight"
_STEP = "step"


def take_training_state(engine: Any, keep: bool) -> dict[str, Tensor]:
    """Every trained parameter and its optimiser states, fp32 on the CPU, as `weight/NAME`, `exp_avg/NAME`, ..., and the
    optimiser's own count as `step`. All ranks call it, which gather each tensor; only those with `keep` hold them."""
    keys, count = _optimizer_states(engine)
    if keys:
        _link_states(engine)
    taken: dict[str, Tensor] = {} if count is None or not keep else {_STEP: count.detach().cpu().clone()}
    for name, parameter in _trained(engine):
        for key in (None, *keys):
            tensor = _whole(engine, parameter, key)
            if keep:
                taken[f"{key or _WEIGHT}/{name}"] = tensor.detach().to("cpu", torch.float32, copy=True)
    return taken


@torch.no_grad()
def put_training_state(engine: Any, saved: dict[str, Tensor]) -> None:
    """Puts what `take_training_state` took into `engine`. Raises RunError where it is of other parameters or of another
    optimiser."""
    parameters = list(_trained(engine))
    keys = sorted({name.split("/", 1)[0] for name in saved} - {_WEIGHT, _STEP})
    wanted = {f"{key}/{name}" for key in (_WEIGHT, *keys) for name, _ in parameters}
    if (odd := sorted(wanted ^ (saved.keys() - {_STEP}))) or (keys and keys != _expected_keys(engine)):
        what = f"such as {odd[0]}" if odd else f"its states are {', '.join(keys)}"
        raise RunError(
            f"the checkpoint was trained with another --optimizer or --tune ({what}). Resume with the arguments it was "
            "started with, or start a new run from its weights with --weights and another --out"
        )
    if keys:
        _make_states(engine, keys, saved.get(_STEP))
    for name, parameter in parameters:
        _set_weight(engine, parameter, saved[f"{_WEIGHT}/{name}"])
        for key in keys:
            _set_state(engine, parameter, saved[f"{key}/{name}"], key)


def _trained(engine: Any) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in engine.module.named_parameters() if p.requires_grad)


def _inner(engine: Any) -> torch.optim.Optimizer:
    """torch's optimiser, inside DeepSpeed's where there is one."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _optimizer_states(engine: Any) -> tuple[list[str], Tensor | None]:
    """The optimiser's tensors of a parameter's shape, by name, and its count of steps; nothing before its first."""
    for state in _inner(engine).state.values():
        tensors = {key: value for key, value in state.items() if torch.is_tensor(value)}
        return sorted(key for key, value in tensors.items() if value.ndim), tensors.get(_STEP)
    return [], None


def _expected_keys(engine: Any) -> list[str]:
    inner = _inner(engine)
    if isinstance(inner, torch.optim.SGD):
        return ["momentum_buffer"] if inner.defaults["momentum"] else []
    return ["exp_avg", "exp_avg_sq"]


def _whole(engine: Any, parameter: nn.Parameter, key: str | None) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        return parameter if key is None else engine.optimizer.state[parameter][key]
    if key is None:
        return safe_get_full_fp32_param(parameter)
    return safe_get_full_optimizer_state(parameter, key)


def _make_states(engine: Any, keys: list[str], count: Tensor | None) -> None:
    """Empty states, as a first step would make them."""
    inner = _inner(engine)
    for part in _parts(engine):
        counts = {} if count is None else {_STEP: count.to(part.device, copy=True)}
        inner.state[part] = {**counts, **{key: torch.zeros_like(part) for key in keys}}
    _link_states(engine)


def _parts(engine: Any) -> list[Tensor]:
    """What the optimiser has states of: parameters or, under ZeRO, this rank's parts of many of them as one."""
    stage = engine.zero_optimization_stage()
    if stage == 3:
        return engine.optimizer.fp32_partitioned_groups_flat
    if stage:
        return engine.optimizer.single_partition_of_fp32_groups
    return [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]


def _link_states(engine: Any) -> None:
    """Lets DeepSpeed find the states of each parameter in those of its flat groups. It does so itself after the step of
    the first group, when the others have none yet."""
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _set_weight(engine: Any, parameter: nn.Parameter, value: Tensor) -> None:
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param

    value = value.to(engine.device)
    if engine.zero_optimization_stage() == 3:
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)
    else:
        parameter.copy_(value)
    if engine.zero_optimization_stage():
        safe_set_full_fp32_param(parameter, value)


def _set_state(engine: Any, parameter: nn.Parameter, value: Tensor, key: str) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        engine.optimizer.state[parameter][key].copy_(value)
    else:
        safe_set_full_optimizer_state(parameter, value.to(engine.device), key)
