"""The configuration of a training run: defaults < recipe file (YAML) < command line, checked in one place."""

from .checks import checked
from .recipes import RECIPES, as_yaml, read_recipe
from .sections import (
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SystemConfig,
    TrainConfig,
    with_model_defaults,
)
from .types import (
    Count,
    Half,
    KeyValues,
    Natural,
    NotNegative,
    Positive,
    Precision,
    Sampling,
    Share,
    Views,
    parse_views,
)
from .validation import in_range, validate

__all__ = [
    "RECIPES",
    "AugmentConfig",
    "Count",
    "DataConfig",
    "Half",
    "KeyValues",
    "ModelConfig",
    "Natural",
    "NotNegative",
    "OptimConfig",
    "Positive",
    "Precision",
    "RunConfig",
    "Sampling",
    "Share",
    "SystemConfig",
    "TrainConfig",
    "Views",
    "as_yaml",
    "checked",
    "in_range",
    "parse_views",
    "read_recipe",
    "validate",
    "with_model_defaults",
]
