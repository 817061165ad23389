"""DeepSpeed: our configuration as its JSON, and a model with its optimiser as an engine."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

import torch
from torch import nn

from tubelet.backbones import Model

from ..cluster.distributed import World
from ..config import OptimConfig, SystemConfig
from ..errors import ConfigError


def deepspeed_json(optim: OptimConfig, system: SystemConfig, batch: int, parameters: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a run. batch: clips of a process at a time; parameters: of the model, which
    bounds the communication buckets (DeepSpeed's default of 5e8 elements is 2 GB of buffer for any model)."""
    bucket = min(parameters, 50_000_000)
    ours = clips_itself(system)
    return {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": optim.accumulate,
        "gradient_clipping": 0.0 if ours else optim.clip_grad,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": system.zero_stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "overlap_comm": False,
        },
        # fp32 parameters, bf16 arithmetic where it is safe: works at every stage, and with batch norm.
        "torch_autocast": {"enabled": system.precision == "bf16", "dtype": "bfloat16"},
        "fp16": {"enabled": system.precision == "fp16"},
    }


def parameter_groups(model: Model, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's two groups: with weight decay, and without it for vectors (biases, norms) and what the model names."""
    exempt = model.no_weight_decay()
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (spared if parameter.ndim <= 1 or name in exempt else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def start_engine(model: Model, optim: OptimConfig, system: SystemConfig, batch: int, world: World) -> Any:
    """The DeepSpeed engine around `model`, already on its device. Raises ConfigError for a precision that it lacks."""
    if system.precision == "fp16" and world.device.type == "cpu":
        raise ConfigError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    if world.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it looks for one, and warns that there is none
    import deepspeed  # takes seconds, and only training needs it
    from deepspeed.ops import __compatible_ops__
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    if world.device.type == "cpu":
        # Compiles C++ for half a minute at the first start, and serves only inference.
        __compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    for parameter in model.parameters():
        if parameter.stride(-1) != 1:  # a channels-last kernel: DeepSpeed views parameters as bytes, and cannot so
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    # torch's AdamW, from here: DeepSpeed's own would compile an extension on the user's machine at the first start.
    optimizer = torch.optim.AdamW(
        parameter_groups(model, optim.weight_decay), lr=optim.lr, betas=optim.betas, fused=world.device.type == "cuda"
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    config = deepspeed_json(optim, system, batch, count)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    return engine


def clips_itself(system: SystemConfig) -> bool:
    """Whether gradients are clipped in `step` below: with torch's own optimiser DeepSpeed clips them too, but does
    not tell their norm."""
    return system.zero_stage == 0 and system.precision != "fp16"


def set_learning_rate(engine: Any, rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def step(engine: Any, optim: OptimConfig, system: SystemConfig) -> torch.Tensor | float | None:
    """After each backward: takes the optimiser step when `optim.accumulate` of them are done.

    Returns the norm of the gradient before clipping, where a step was taken.
    """
    if not engine.is_gradient_accumulation_boundary():
        engine.step()
        return None
    if clips_itself(system):
        norm = nn.utils.clip_grad_norm_(engine.module.parameters(), optim.clip_grad or math.inf)
        engine.step()
        return norm
    engine.step()
    return engine.get_global_grad_norm()
