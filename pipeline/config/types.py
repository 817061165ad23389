"""Kinds of values that arguments and recipes have, with their ranges."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tyro
import yaml
from pydantic import Field

Precision = Literal["fp32", "bf16", "fp16"]
Sampling = Literal["dense", "segments"]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Half = Annotated[float, Field(ge=0, le=0.5)]
Share = Annotated[float, Field(ge=0, le=1)]


def _key_values(words: list[str]) -> dict[str, Any]:
    pairs = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise ValueError(f"'{word}' is not of the form KEY=VALUE")
        pairs[key] = yaml.safe_load(value)
    return pairs


KeyValues = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="KEY=VALUE",
        instance_from_str=_key_values,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda pairs: [f"{key}={value}" for key, value in pairs.items()],
    ),
]
