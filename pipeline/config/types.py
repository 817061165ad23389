"""Kinds of values that arguments and recipes have, with their ranges."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import tyro
import yaml
from pydantic import AfterValidator, Field

Precision = Literal["fp32", "bf16", "fp16"]
Sampling = Literal["dense", "segments"]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Half = Annotated[float, Field(ge=0, le=0.5)]
Share = Annotated[float, Field(ge=0, le=1)]


def parse_views(text: str) -> tuple[int, int]:
    """'4x3' -> (4, 3), temporal and spatial. Raises ValueError."""
    match = re.fullmatch(r"([1-9]\d*)[x×]([13])", text)
    if not match:
        raise ValueError("views are temporal x spatial, such as 4x3: at least 1 clip, and 1 or 3 crops of each")
    return int(match[1]), int(match[2])


def _views(text: str) -> str:
    parse_views(text)
    return text


Views = Annotated[str, AfterValidator(_views)]


def _key_values(words: list[str]) -> dict[str, Any]:
    pairs = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise ValueError(f"'{word}' is not of the form KEY=VALUE")
        pairs[key] = yaml.safe_load(value)
    return pairs


_KEY_VALUE = tyro.constructors.PrimitiveConstructorSpec(
    nargs="*",
    metavar="KEY=VALUE",
    instance_from_str=_key_values,
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda pairs: [f"{key}={value}" for key, value in pairs.items()],
)
KeyValues = Annotated[dict[str, Any], _KEY_VALUE]
Factors = Annotated[dict[str, NotNegative], _KEY_VALUE]
