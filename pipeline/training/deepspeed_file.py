"""DeepSpeed settings of the user's own, beside ours: nothing in them is ignored, and nothing said twice."""

from __future__ import annotations

import json
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, create_model

from ..config import validate
from ..errors import ConfigError

# What decides these, by its place in DeepSpeed's JSON; there the file may only say the same.
_FLAGS = {
    "train_micro_batch_size_per_gpu": "--batch-size",
    "gradient_accumulation_steps": "--accumulate",
    "gradient_clipping": "--clip-grad",
    "zero_optimization.stage": "--zero-stage",
    "zero_optimization.overlap_comm": "--overlap",
    "zero_optimization.offload_optimizer": "--offload",
    "zero_optimization.offload_optimizer.device": "--offload",
    "zero_optimization.cpu_offload": "--offload",
    "torch_autocast.enabled": "--precision",
    "torch_autocast.dtype": "--precision",
    "fp16.enabled": "--precision",
}
_UNUSED = "it has no effect on the models and the data of tubelet"
_REFUSED = {
    "optimizer": "the optimiser comes from --optimizer, --lr and --weight-decay",
    "scheduler": "the learning rate comes from --schedule",
    "bf16": "--precision bf16 computes in bf16 and keeps parameters in fp32, which works with BatchNorm and at stage 0",
    "train_batch_size": "it follows from --batch-size, --accumulate and the number of processes",
    "zero_allow_untested_optimizer": "tubelet sets it",
    "zero_force_ds_cpu_optimizer": "tubelet sets it",
    "compression_training": _UNUSED,
    "curriculum_learning": _UNUSED,
    "data_efficiency": _UNUSED,
    "eigenvalue": _UNUSED,
    "elasticity": "go on with another number of processes by --resume auto",
    "checkpoint": "tubelet writes checkpoints itself",
}
# What says no more than a key that is not there.
_NOTHING = {"zero_optimization.offload_optimizer.device": "none", "zero_optimization.cpu_offload": False}


@cache
def _schema() -> type[BaseModel]:
    """Every key that has an effect here, by section. DeepSpeed itself has types for some of the sections, and ignores
    what it does not know elsewhere."""
    import_deepspeed()
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.monitor.config import CSVConfig, TensorBoardConfig, WandbConfig
    from deepspeed.runtime.precision_config import DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    typed: dict[str, Any] = {
        "comms_logger": CommsLoggerConfig,
        "compile": CompileConfig,
        "csv_monitor": CSVConfig,
        "fp16": DeepSpeedFP16Config,
        "tensorboard": TensorBoardConfig,
        "timers": _section("timers", throughput=DeepSpeedThroughputTimerConfig),
        "wandb": WandbConfig,
        "zero_optimization": DeepSpeedZeroConfig,
    }
    plain = {name: _section(name, **dict.fromkeys(keys.split(), _Plain)) for name, keys in _SECTIONS.items()}
    numbers, switches = dict.fromkeys(_NUMBERS.split(), float), dict.fromkeys(_SWITCHES.split(), bool)
    return _section("settings", communication_data_type=str, **numbers, **switches, **typed, **plain)


_Plain = bool | float | str | list | None
_NUMBERS = (
    "gradient_accumulation_steps gradient_clipping gradient_predivide_factor steps_per_print "
    "train_micro_batch_size_per_gpu"
)
_SWITCHES = "disable_allgather dump_state memory_breakdown prescale_gradients sparse_gradients wall_clock_breakdown"
_SECTIONS = {
    "activation_checkpointing": "partition_activations contiguous_memory_optimization cpu_checkpointing "
    "number_checkpoints synchronize_checkpoint_boundary profile",
    "aio": "block_size queue_depth intra_op_parallelism single_submit overlap_events use_gds",
    "data_types": "grad_accum_dtype param_dtype buffer_dtype keep_in_fp32_modules",
    "flops_profiler": "enabled recompute_fwd_factor profile_step module_depth top_modules detailed output_file",
    "torch_autocast": "enabled dtype lower_precision_safe_modules",
}


def _section(name: str, **kinds: Any) -> type[BaseModel]:
    keys: dict[str, Any] = {key: (kind, None) for key, kind in kinds.items()}
    return create_model(name, __config__=ConfigDict(extra="forbid"), **keys)


def import_deepspeed() -> Any:
    """DeepSpeed, which takes seconds to import and only training needs; quiet, and compiling nothing on CPUs."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it looks for one, and warns that there is none
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # Serves only inference, and would be compiled for half a minute at the first start. DeepSpeed need not even ask
    # what can be compiled: asking runs compilers, whose complaints go to the terminal.
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    return deepspeed


def read_deepspeed_file(path: Path) -> dict[str, Any]:
    """Raises ConfigError for what is no JSON object, and for keys that DeepSpeed or tubelet would not honour."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--deepspeed-config {path}: is not a readable JSON file ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--deepspeed-config {path}: holds no JSON object, as DeepSpeed's settings are")
    for key, value in content.items():
        if key in _REFUSED:
            raise ConfigError(f"--deepspeed-config {path}: take {key} out of it: {_REFUSED[key]}")
        if "auto" in _values(value):
            raise ConfigError(f"--deepspeed-config {path}: {key} has the value auto, which only Hugging Face fills in")
    validate(_schema(), content, f"--deepspeed-config {path}")
    return content


def merged(ours: dict[str, Any], theirs: dict[str, Any], path: Path, place: str = "") -> dict[str, Any]:
    """Both. Raises ConfigError where `theirs` says otherwise than an argument of training."""
    result = dict(ours)
    for key, value in theirs.items():
        where = f"{place}{key}"
        if isinstance(value, dict):
            result[key] = merged(ours.get(key, {}), value, path, f"{where}.")
        elif where in _FLAGS and value != ours.get(key, _NOTHING.get(where)):
            said = f"{ours[key]!r}" if key in ours else "not set"
            raise ConfigError(
                f"--deepspeed-config {path} says {where} = {value!r}, and it is {said} by {_FLAGS[where]}: change "
                f"{_FLAGS[where]}, or take it out of the file"
            )
        else:
            result[key] = value
    return result


def _values(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [inner for part in value.values() for inner in _values(part)]
    return [inner for part in value for inner in _values(part)] if isinstance(value, list) else [value]
