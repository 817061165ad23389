"""What must hold between the values of a training run."""

from __future__ import annotations

from ..errors import ConfigError
from .sections import TrainConfig
from .validation import in_range


def checked(config: TrainConfig) -> TrainConfig:
    """`config` with its ranges checked, wherever the values came from, and what a run cannot do without.

    Raises ConfigError.
    """
    config = in_range(config, "the arguments")
    missing = [
        f"--{name} {metavar}"
        for name, metavar, value in (
            ("model", "NAME", config.model.model),
            ("data", "DIR", config.data.data),
            ("out", "RUN", config.run.out),
        )
        if not value
    ]
    if missing:
        raise ConfigError(
            f"training needs {', '.join(missing)}. For example: "
            "tubelet prepare --videos FOLDER_OF_CLASSES --out shards && "
            "deepspeed launch/train.py --model timesformer_tiny --data shards --out run"
        )
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
    if config.optim.warmup_epochs > config.optim.epochs:
        raise ConfigError(
            f"--warmup-epochs {config.optim.warmup_epochs:g} is longer than --epochs {config.optim.epochs}: "
            "lower the warm-up or train longer"
        )
    return config
