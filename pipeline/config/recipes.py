"""Recipes: a training configuration as a YAML file."""

from __future__ import annotations

import difflib
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from ..errors import ConfigError
from .sections import TrainConfig
from .validation import validate

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"


def read_recipe(source: str) -> TrainConfig:
    """The configuration of a recipe: a YAML file with the sections of TrainConfig, by path or by the name of one that
    comes with tubelet. Raises ConfigError for a missing file, an unknown key (with the nearest known one) or a value
    that does not fit."""
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{source}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in RECIPES.glob("*.yaml"))
        near = difflib.get_close_matches(source, known, n=3, cutoff=0.4)
        raise ConfigError(
            f"--recipe {source}: no such file or recipe. "
            + (f"Did you mean {', '.join(near)}? " if near else "")
            + f"Recipes that come with tubelet: {', '.join(known) or 'none'}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: is not readable YAML ({' '.join(str(error).split())})") from error
    config = validate(TrainConfig, content, str(path))
    if (config.data.data or "").startswith("pipe:"):  # a recipe goes from hand to hand, and must not run commands
        raise ConfigError(f"{path}: data.data is a command. Only one on the command line is run: give it as --data")
    return config


def as_yaml(config: TrainConfig) -> str:
    """The configuration as a recipe that gives it again."""
    return yaml.safe_dump(TypeAdapter(type(config)).dump_python(config, mode="json"), sort_keys=False)
