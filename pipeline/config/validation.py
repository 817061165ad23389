"""Values against the schema of a dataclass, and what is wrong with them in a line each."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from ..errors import ConfigError

Config = TypeVar("Config")


def validate(schema: type[Config], content: Any, source: str) -> Config:
    """`content` (a mapping) as an instance of `schema`, a dataclass or a pydantic model, which may have others as
    sections. Raises ConfigError with what is wrong in each place."""
    try:
        return TypeAdapter(schema).validate_python(content)
    except ValidationError as error:
        faults = [_fault(schema, fault) for fault in error.errors(include_url=False)]
        raise ConfigError(f"{source}: " + "; ".join(faults)) from None


def _fault(schema: type, fault: Mapping[str, Any]) -> str:
    where = [str(part) for part in fault["loc"]]
    if fault["type"] not in ("unexpected_keyword_argument", "extra_forbidden"):
        got = "" if isinstance(fault["input"], Mapping) else f", got {fault['input']!r}"
        told = fault["msg"].removeprefix("Value error, ")
        return f"{'.'.join(where)}: {told[:1].lower()}{told[1:]}{got}"
    section: Any = schema
    for part in where[:-1]:
        section = get_type_hints(section).get(part, section)
        section = next((kind for kind in get_args(section) if _keys(kind)), section)  # of one that may be left out
    known = _keys(section)
    near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.5)
    mend = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {'.'.join(where)}; {mend}"


def _keys(section: Any) -> list[str]:
    if isinstance(section, type) and issubclass(section, BaseModel):
        return [field.alias or name for name, field in section.model_fields.items()]
    return [field.name for field in fields(section)] if is_dataclass(section) else []


def in_range(config: Config, source: str) -> Config:
    """`config` once more through its schema, for the ranges that a command line does not know. Raises ConfigError."""
    return validate(type(config), asdict(config), source)  # type: ignore[call-overload]  # a dataclass
