"""Tensors out of files, whatever they are wrapped in. Nothing but tensors is ever unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .layouts import State, WeightsError

_WRAPPERS = ("model_state", "state_dict", "model_state_dict", "model", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def read_weights(source: str | Path | Mapping[str, Any]) -> tuple[State, str]:
    """The tensors of a file, a folder with model.safetensors, or a mapping, and what to call the source.

    Wrappers (`{"model_state": ...}`) and prefixes that every key shares (`module.`, `model.`) are taken off.
    Raises WeightsError for whatever cannot be read as tensors.
    """
    if isinstance(source, Mapping):
        return _unwrap(source, "the given state dict"), "state dict"
    path = Path(source)
    if path.is_dir():
        if not (path / "model.safetensors").is_file():
            raise WeightsError(f"{path} is a folder without a model.safetensors; name the file of weights itself")
        path = path / "model.safetensors"
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    return _unwrap(_read(path), str(path)), str(path)


def _read(path: Path) -> Mapping[str, Any]:
    """Choose the reader by the file's first bytes, so that a misnamed file is read all the same."""
    with path.open("rb") as file:
        start = file.read(16)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _read_safetensors(path)
    if not start.startswith((b"PK", b"\x80")):
        shown = "it is empty" if not start else f"it begins with {start!r}"
        raise WeightsError(f"{path} is neither a PyTorch nor a safetensors file: {shown}; download or save it again")
    return _read_torch(path)


def _read_safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is truncated or no safetensors file ({error}); download or save it again"
        ) from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise WeightsError(
                f"{path} holds objects that run code when unpickled, so it was not opened; "
                "where you trust it, save its state dict alone: torch.save(model.state_dict(), ...)"
            ) from error
        raise WeightsError(f"{path} is damaged or no PyTorch file ({error}); download or save it again") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is truncated or damaged; download or save it again") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def _unwrap(content: Mapping[str, Any], label: str) -> State:
    while True:
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{label} holds no tensors; its keys are {', '.join(map(str, list(content)[:5])) or 'none'}")
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
