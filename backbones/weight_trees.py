"""Weights of JAX: the nested maps of Flax's msgpack files and NumPy's .npz, as tensors whose keys are joined by "/"."""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from torch import Tensor

from .layouts import State, WeightsError

_NDARRAY, _SCALAR = 1, 3  # Flax's extension types; 2 is a complex number
_CHUNKED = "__msgpack_chunked_array__"
# Training state: moments of the optimiser, counters, random keys. Models of Scenic, big_vision and Flax's TrainState.
_TRAINING = re.compile(
    r"^(optimizer/(state|state_dict)|opt_state|opt|rng|global_step|step|accum_train_time|metadata|extra|ema_params)(/|$)"
)
_PREFIXES = re.compile(r"^(optimizer/target/|target/|params/|model_state/|flax_model/)+")


def read_tree(path: Path) -> State:
    """The tensors of a Flax checkpoint. The whole file is held in memory until the training state is dropped."""
    try:
        tree = msgpack.unpackb(path.read_bytes(), raw=False, strict_map_key=False)
        leaves = _weights(_leaves(tree))
        return {key: _tensor(_array(leaf)) for key, leaf in leaves.items() if _is_array(leaf)}
    except (msgpack.UnpackException, ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is truncated or no checkpoint of Flax; download or save it again") from error


def read_arrays(path: Path) -> State:
    """The tensors of an .npz file; arrays of objects, which would have to be unpickled, are refused."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = _weights((name, name) for name in arrays.files)
            return {
                key: _tensor(array) for key, name in names.items() if (array := arrays[name]).dtype.kind not in "SU"
            }
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise WeightsError(
                f"{path} holds pickled objects, which may run code when read, so it was not opened; "
                "save its arrays alone with numpy.savez"
            ) from error
        raise WeightsError(f"{path} is truncated or damaged; download or save it again") from error


def _weights(leaves: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """Without the training state, and without the prefixes that say where in it the weights stood."""
    return {_PREFIXES.sub("", key): leaf for key, leaf in leaves if not _TRAINING.match(key)}


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and _CHUNKED not in tree:
        for key, branch in tree.items():
            yield from _leaves(branch, f"{prefix}/{key}" if prefix else str(key))
    else:
        yield prefix, tree


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, Mapping) or (isinstance(leaf, msgpack.ExtType) and leaf.code in (_NDARRAY, _SCALAR))


def _array(leaf: Any) -> np.ndarray[Any, Any]:
    """An array as Flax packs it: (shape, name of the dtype, bytes), or a map of flat chunks of such."""
    if isinstance(leaf, Mapping):
        shape, chunks = (_sequence(leaf[part]) for part in ("shape", "chunks"))
        return np.concatenate([_array(chunk) for chunk in chunks]).reshape(shape)
    shape, name, content = msgpack.unpackb(leaf.data, raw=False)
    dtype = np.dtype("V2" if name == "bfloat16" else name)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes are no {name} of shape {shape}")
    return np.frombuffer(content, dtype).reshape(shape)


def _sequence(numbered: Any) -> list[Any]:
    """A tuple, which Flax stores as a map of its positions."""
    return [numbered[str(i)] for i in range(len(numbered))] if isinstance(numbered, Mapping) else list(numbered)


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """NumPy has no bfloat16: its two bytes come as such."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
