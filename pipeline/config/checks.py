"""What must hold between the values of a training run."""

from __future__ import annotations

from ..errors import ConfigError
from .sections import OptimConfig, SystemConfig, TrainConfig
from .validation import in_range


def checked(config: TrainConfig) -> TrainConfig:
    """`config` with its ranges checked, wherever the values came from, and what a run cannot do without.

    Raises ConfigError.
    """
    config = in_range(config, "the arguments")
    _check_complete(config)
    low, high = config.data.crop_scale
    if not 0 < low <= high or not 0 < config.data.crop_ratio[0] <= config.data.crop_ratio[1]:
        raise ConfigError("--crop-scale and --crop-ratio each take a smaller and a larger positive number, in order")
    if not 0 < config.augment.erasing_area[0] <= config.augment.erasing_area[1]:
        raise ConfigError("--erasing-area takes a smaller and a larger share, above 0, in order")
    if (config.augment.mixup or config.augment.cutmix) and config.data.batch_size == 1:
        raise ConfigError("--mixup and --cutmix mix the clips of a batch: --batch-size must be 2 or more")
    if not 1 <= config.data.crop_jitter[0] <= config.data.crop_jitter[1]:
        raise ConfigError("--crop-jitter takes a smaller and a larger number, in order, neither below 1")
    if config.data.batch_size % config.data.repeats:
        raise ConfigError(
            f"--batch-size {config.data.batch_size} is not a multiple of --repeats {config.data.repeats}, as it has to "
            "be for whole videos"
        )
    _check_optimisation(config.optim, config.system)
    if config.optim.warmup_epochs > config.optim.epochs:
        raise ConfigError(
            f"--warmup-epochs {config.optim.warmup_epochs:g} is longer than --epochs {config.optim.epochs}: "
            "lower the warm-up or train longer"
        )
    return config


def _check_complete(config: TrainConfig) -> None:
    model, data, out = config.model.model, config.data.data, config.run.out
    given = {"--model NAME": model, "--data DIR": data, "--out RUN": out}
    missing = [argument for argument, value in given.items() if not value]
    if not missing:
        return
    prepare = "" if data else "tubelet prepare --videos FOLDER_OF_CLASSES --out shards && "
    what = f"--recipe {config.run.recipe}" if model and config.run.recipe else f"--model {model or 'timesformer_tiny'}"
    raise ConfigError(
        f"training needs {', '.join(missing)}. The shortest way there: {prepare}"
        f"deepspeed launch/train.py {what} --data {data or 'shards'} --out {out or 'run'}"
    )


def _check_optimisation(optim: OptimConfig, system: SystemConfig) -> None:
    if (optim.schedule == "step") != bool(optim.step_epochs):
        raise ConfigError("--schedule step and --step-epochs go together: give both or neither")
    if system.zero_stage == 0 and (system.offload or system.overlap):
        raise ConfigError("--offload and --overlap are ZeRO's: give --zero-stage 1, 2 or 3 with them")
    if system.zero_stage == 0 and system.precision == "fp16":
        raise ConfigError(
            "--precision fp16 needs fp32 copies of the weights, which ZeRO keeps: give --zero-stage 1 to 3"
        )
    if system.zero_stage and optim.optimizer == "lamb":
        raise ConfigError(
            "--optimizer lamb looks at each tensor's norm, and ZeRO divides tensors among the processes: give "
            "--zero-stage 0 with it"
        )
    if optim.ema and (system.zero_stage == 3 or system.precision == "fp16"):
        raise ConfigError(
            "--ema averages whole fp32 parameters, which --zero-stage 3 and --precision fp16 do not keep: use "
            "--zero-stage 2 or less, and bf16 or fp32"
        )
    if system.precise_bn and system.batch_norm == "frozen":
        raise ConfigError("--precise-bn takes statistics anew that --batch-norm frozen keeps: leave out one of them")
