"""DeepSpeed settings of the user's own, beside ours: nothing in them is ignored, and nothing said twice."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from ..errors import ConfigError

# What decides these, by its place in DeepSpeed's JSON; there the file may only say the same.
_FLAGS = {
    "train_micro_batch_size_per_gpu": "--batch-size",
    "gradient_accumulation_steps": "--accumulate",
    "gradient_clipping": "--clip-grad",
    "zero_optimization.stage": "--zero-stage",
    "zero_optimization.overlap_comm": "--overlap",
    "zero_optimization.offload_optimizer.device": "--offload",
    "torch_autocast.enabled": "--precision",
    "torch_autocast.dtype": "--precision",
    "fp16.enabled": "--precision",
}
_REFUSED = {
    "optimizer": "the optimiser comes from --optimizer, --lr and --weight-decay",
    "scheduler": "the learning rate comes from --schedule",
    "bf16": "--precision bf16 computes in bf16 and keeps parameters in fp32, which works with BatchNorm and at stage 0",
    "train_batch_size": "it follows from --batch-size, --accumulate and the number of processes",
    "zero_allow_untested_optimizer": "tubelet sets it",
    "zero_force_ds_cpu_optimizer": "tubelet sets it",
    "elasticity": "go on with another number of processes by --resume auto",
    "checkpoint": "tubelet writes checkpoints itself",
}
# Unknown ones DeepSpeed ignores, so it would a misspelt one.
_KNOWN = {
    "activation_checkpointing", "aio", "comms_logger", "communication_data_type", "compression_training",
    "csv_monitor", "curriculum_learning", "data_efficiency", "data_types", "disable_allgather", "dump_state",
    "eigenvalue", "flops_profiler", "fp16", "gradient_accumulation_steps", "gradient_clipping",
    "gradient_predivide_factor", "memory_breakdown", "prescale_gradients", "seq_parallel_communication_data_type",
    "sparse_gradients", "steps_per_print", "tensorboard", "torch_autocast",
    "train_micro_batch_size_per_gpu", "use_data_before_expert_parallelism", "wall_clock_breakdown", "wandb",
    "zero_optimization", "compile", "timers",
}  # fmt: skip


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
        if key not in _KNOWN:
            near = difflib.get_close_matches(key, _KNOWN, n=1)
            mend = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(_KNOWN))}"
            raise ConfigError(f"--deepspeed-config {path}: DeepSpeed has no {key} and would ignore it; {mend}")
        if "auto" in _values(value):
            raise ConfigError(f"--deepspeed-config {path}: {key} has the value auto, which only Hugging Face fills in")
    return content


def merged(ours: dict[str, Any], theirs: dict[str, Any], path: Path, place: str = "") -> dict[str, Any]:
    """Both. Raises ConfigError where `theirs` says otherwise than an argument of training."""
    result = dict(ours)
    for key, value in theirs.items():
        where = f"{place}{key}"
        if key in ours and isinstance(value, dict) != isinstance(ours[key], dict):
            wanted = "an object" if isinstance(ours[key], dict) else "a single value"
            raise ConfigError(f"--deepspeed-config {path}: {where} takes {wanted}, not {json.dumps(value)}")
        if isinstance(value, dict):
            result[key] = merged(ours.get(key, {}), value, path, f"{where}.")
        elif where in _FLAGS and value != ours.get(key):
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
