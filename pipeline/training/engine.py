"""DeepSpeed: our configuration as its JSON, and a model with its optimiser as an engine."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from tubelet.backbones import Model

from ..cluster.distributed import World
from ..config import OptimConfig, SystemConfig
from ..errors import ConfigError
from .deepspeed_file import import_deepspeed, merged, read_deepspeed_file
from .groups import parameter_groups
from .optimisers import build_optimizer


def deepspeed_json(optim: OptimConfig, system: SystemConfig, batch: int, parameters: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a run. batch: clips of a process at a time; parameters: of the model, which
    bounds the communication buckets (DeepSpeed's default of 5e8 elements is 2 GB of buffer for any model). Raises
    ConfigError for what the user's own file says against it."""
    bucket = min(parameters + parameters % 2, 50_000_000)  # even, as DeepSpeed aligns its parts
    zero: dict[str, Any] = {
        "stage": system.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": system.overlap,
    }
    if system.zero_stage == 3:
        zero["stage3_prefetch_bucket_size"] = bucket
    if system.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    ours = {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": optim.accumulate,
        "gradient_clipping": optim.clip_grad,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # which would be compiled at the first start
        "zero_optimization": zero,
        # fp32 parameters, bf16 arithmetic where it is safe: works at every stage, and with batch norm.
        "torch_autocast": {"enabled": system.precision == "bf16", "dtype": "bfloat16"},
        "fp16": {"enabled": system.precision == "fp16"},
    }
    if system.deepspeed_config is not None:
        ours = merged(ours, read_deepspeed_file(system.deepspeed_config), system.deepspeed_config)
    if clips_itself(system):
        ours["gradient_clipping"] = 0.0  # after the file was compared with what the user asked for
    return ours


def start_engine(model: Model, optim: OptimConfig, system: SystemConfig, config: dict[str, Any], world: World) -> Any:
    """The DeepSpeed engine around `model`, already on its device, by the JSON `config`. Raises ConfigError for a
    precision that the device lacks."""
    if system.precision == "fp16" and world.device.type == "cpu":
        raise ConfigError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    deepspeed = import_deepspeed()
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    for parameter in model.parameters():
        if parameter.stride(-1) != 1:  # a channels-last kernel: DeepSpeed views parameters as bytes, and cannot so
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    # torch's optimisers, from here: DeepSpeed's own would be compiled on the user's machine at the first start.
    optimizer = build_optimizer(parameter_groups(model, optim), optim, world.device)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    if system.compile:
        engine.compile()
    return engine


def clips_itself(system: SystemConfig) -> bool:
    """Whether gradients are clipped in `step` below: with torch's own optimiser DeepSpeed clips them too, but does
    not tell their norm."""
    return system.zero_stage == 0 and system.precision != "fp16"


def set_learning_rate(engine: Any, rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def step(engine: Any, optim: OptimConfig, system: SystemConfig) -> torch.Tensor | float | None:
    """After each backward: takes the optimiser step when `optim.accumulate` of them are done, unless a gradient is no
    number: then parameters and optimiser stay as they are, on the device, without a wait for it.

    Returns the norm of the gradient before clipping, where a step was due: NaN where it was not taken, unless that is
    fp16's search for a loss scale.
    """
    if not engine.is_gradient_accumulation_boundary():
        engine.step()
        return None
    if clips_itself(system):
        norm = nn.utils.clip_grad_norm_(engine.module.parameters(), optim.clip_grad or math.inf)
        engine.optimizer.found_inf = (~norm.isfinite()).float()
        engine.step()
        return norm
    engine.step()  # at the other stages DeepSpeed looks itself, and keeps the norm of the last step it took
    if system.precision != "fp16" and not engine.was_step_applied():
        return math.nan
    return engine.get_global_grad_norm()


def whole_parameters(engine: Any) -> AbstractContextManager:
    """Within it, every process has all parameters: under ZeRO 3 each holds a part of them otherwise."""
    if engine.zero_optimization_stage() < 3:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(engine.module.parameters()))
