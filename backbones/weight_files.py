"""Tensors out of files, whatever they are wrapped in. Nothing that a file names is run, and nothing of it imported."""

from __future__ import annotations

import argparse
import codecs
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from .layouts import State, WeightsError
from .published import fetch, meant_by, nearest_published
from .weight_trees import read_arrays, read_tree

_WRAPPERS = ("model_state", "state_dict", "model_state_dict", "model", "module")
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict")  # of the weights over the course of training
_PREFIXES = ("module.", "_orig_mod.", "model.")
_INDEXED = ("model.safetensors", "pytorch_model.bin")  # of a Hugging Face folder; large ones in parts, with an index
_AGAIN = "download or save it again"


def read_weights(source: str | Path | Mapping[str, Any]) -> tuple[State, str]:
    """The tensors of a file, a folder, published weights by their id, or a mapping, and what to call the source.

    Files may be PyTorch's (.pt, .pth, .pyth, .bin), safetensors, NumPy's .npz or Flax's msgpack: which of them is told
    by the first bytes. The trees of the last two come as keys joined by "/". A folder holds model.safetensors or
    pytorch_model.bin, whole or in parts. Wrappers (`{"model_state": ...}`) and prefixes that every key shares
    (`module.`, `model.`) are taken off.

    Raises WeightsError for whatever cannot be read as tensors.
    """
    if isinstance(source, Mapping):
        return _unwrap(source, "the given state dict")[0], "state dict"
    path = Path(source)
    if record := meant_by(source):
        path = fetch(record)
    try:
        content = _read_folder(path) if path.is_dir() else _read(path)
    except FileNotFoundError as error:
        near = nearest_published(str(source)) or "; name another, or an id that `tubelet models --weights` lists"
        raise WeightsError(f"there is no file {path}{near}") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}); mend that, or name another") from error
    state, how = _unwrap(content, str(path))
    return state, f"{path}{how}"


def _read_folder(folder: Path) -> Mapping[str, Any]:
    """A model in a folder, as we or Hugging Face's libraries save it."""
    for name in _INDEXED:
        if (folder / name).is_file():
            return _read(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _read_parts(folder / f"{name}.index.json")
    raise WeightsError(
        f"{folder} is a folder without a {' or a '.join(_INDEXED)}; name the file of weights itself"
        f"{_candidates(folder)}"
    )


def _read_parts(index: Path) -> State:
    """The parts that an index lists, as one. Parts lie beside it: a name that leads elsewhere is refused."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        parts = sorted({str(name) for name in places.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is no index of weights in parts; {_AGAIN}") from error
    absent = [name for name in parts if Path(name).name != name or not (index.parent / name).is_file()]
    if absent:
        shown = ", ".join(absent[:3])
        raise WeightsError(f"{index} lists {len(parts)} parts, of which {shown} is not there; download it as well")
    state = {key: value for name in parts for key, value in _read(index.parent / name).items()}
    if lost := places.keys() - state.keys():
        raise WeightsError(f"{index} lists {min(lost)}, which is in none of its parts; {_AGAIN}")
    return state


def _read(path: Path) -> Mapping[str, Any]:
    """Choose the reader by the file's first bytes, so that a misnamed file is read all the same."""
    with path.open("rb") as file:
        start = file.read(512)
    if path.name.endswith(".index.json"):
        return _read_parts(path)
    if start[8:9] == b"{":  # of safetensors, after the header's length
        return _read_safetensors(path)
    if start.startswith(b"PK"):
        return read_arrays(path) if _holds_arrays(path) else _read_torch(path)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _read_torch(path)
    if re.match(rb"([\x81-\x8f]|\xde..|\xdf....)[\xa0-\xbf\xd9-\xdb]", start, re.DOTALL):  # a map of strings in msgpack
        return read_tree(path)
    raise WeightsError(f"{path} {_what_else(start)}")


def _what_else(start: bytes) -> str:
    """What a file that is none of weights is, and what to do about it."""
    text = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if not start:
        return f"is empty; {_AGAIN}"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<!--")):
        return "is a web page, not weights: what answered the download wants a login or a click; fetch it in a browser"
    if start.startswith(b"version https://git-lfs"):
        return "is only a pointer of git-lfs to the weights; fetch them with `git lfs pull`"
    if start.startswith(b"\x93NUMPY"):
        return "is a single array of NumPy; weights are a .npz of named arrays"
    for magic, kind in ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"(\xb5/\xfd", "zstd")):
        if start.startswith(magic):
            return f"is compressed ({kind}); unpack it first"
    if start[257:262] == b"ustar":
        return "is a tar archive; unpack it and name the file of weights in it"
    if start.startswith(b"\x89HDF"):
        return "is an HDF5 file of Keras, which is not read here; save its weights as .npz"
    return f"is no PyTorch, safetensors, .npz or Flax file: it begins with {start[:16]!r}; {_AGAIN}"


def _candidates(folder: Path) -> str:
    endings = (".pt", ".pth", ".pyth", ".bin", ".npz", ".safetensors", ".msgpack")
    found = sorted(
        path.name for path in folder.iterdir() if path.suffix in endings or path.stem.startswith("checkpoint")
    )
    return f", such as {folder / found[0]}" if found else ""


def _holds_arrays(path: Path) -> bool:
    """Whether a zip file is NumPy's; PyTorch's holds a data.pkl, and a program of it a constants.pkl besides."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{path} is truncated or damaged; {_AGAIN}") from error
    if any(name.endswith("constants.pkl") for name in names):
        raise WeightsError(
            f"{path} is a TorchScript program, which would run code; save its state dict: "
            "torch.save(torch.jit.load(...).state_dict(), ...)"
        )
    if any(name.endswith("data.pkl") for name in names):
        return False
    if names and all(name.endswith(".npy") for name in names):
        return True
    shown = ", ".join(names[:3]) or "nothing"
    raise WeightsError(f"{path} is a zip archive of {shown}, no weights; unpack it and name the file of weights in it")


def _read_safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is truncated or no safetensors file ({error}); {_AGAIN}") from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    """Unpickle tensors and the plain data beside them. The file stays on disk until a tensor is used, if it can."""
    try:
        content = _unpickle(path)
    except pickle.UnpicklingError as error:
        if any(word in str(error).lower() for word in ("global", "can only", "trying to call", "persistent")):
            raise WeightsError(
                f"{path} holds objects that run code when unpickled{_named(error)}, so it was not opened; "
                "where you trust it, save its state dict alone: torch.save(model.state_dict(), ...)"
            ) from error
        if "unsupported operand" in str(error).lower():  # of a protocol that torch.save does not write
            raise WeightsError(
                f"{path} is a plain pickle, which could run code, or damaged, so it was not opened; where you trust "
                "it, load it and save its tensors: torch.save(state_dict, ...)"
            ) from error
        raise WeightsError(f"{path} is damaged or no PyTorch file ({_told(error)}); {_AGAIN}") from error
    except RuntimeError as error:
        if "magic number" in str(error):
            raise WeightsError(f"{path} is a plain pickle, not PyTorch's (Caffe2 writes such); {_AGAIN}") from error
        raise WeightsError(f"{path} is truncated or damaged; {_AGAIN}") from error
    except (EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:  # of a broken pickle
        raise WeightsError(f"{path} is truncated or damaged; {_AGAIN}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, not a state dict; save one: torch.save(model.state_dict(), ...)"
        )
    return content


def _unpickle(path: Path) -> Any:
    try:
        return _load(path)
    except UnicodeDecodeError:  # bytes of NumPy, pickled by Python 2
        return _load(path, encoding="latin1")


def _load(path: Path, **options: Any) -> Any:
    misnamed = path.suffix == ".safetensors"  # which alone would make torch choose another reader
    with safe_globals(_PLAIN_DATA), path.open("rb") if misnamed else nullcontext(path) as source:
        mmap = not misnamed and zipfile.is_zipfile(path)
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap, **options)


def _told(error: Exception) -> str:
    """The one line of PyTorch's advice that tells the cause."""
    told = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    return next((line.strip() for line in told.splitlines() if line.strip()), "unreadable")


def _named(error: Exception) -> str:
    """The class or function that was refused, where PyTorch names it."""
    _, found, rest = str(error).partition("GLOBAL ")
    return f" ({rest.split()[0]})" if found and rest else ""


def _ordered(*_: object) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _listed(*_: object) -> list[Any]:
    return []


def _joined(*parts: object) -> str:
    return "/".join(map(str, parts))


def _plain_data() -> list[Any]:
    """What publishers pickle beside the tensors: each name with what stands in for it, which does no more than hold
    data. A configuration becomes a dict, whatever library it is of; only NumPy's numbers and Namespace are themselves.
    """
    stand_ins: dict[str, Any] = {
        "argparse.Namespace": argparse.Namespace,
        "mmengine.logging.history_buffer.HistoryBuffer": argparse.Namespace,
        "collections.defaultdict": _ordered,
        "collections.deque": _listed,
        "numpy.dtype": np.dtype,
        "numpy.ndarray": np.ndarray,
    }
    stand_ins |= dict.fromkeys(("yacs.config.CfgNode", "fvcore.common.config.CfgNode"), OrderedDict)
    stand_ins |= {f"pathlib.{name}": _joined for name in ("PosixPath", "WindowsPath", "PurePosixPath")}
    stand_ins |= {f"builtins.{kind.__name__}": kind for kind in (dict, list, int, float, str, bool)}
    scalar, array = np.float32(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        stand_ins |= {f"{core}.scalar": scalar, f"{core}._reconstruct": array}
    for code in "?bhilqBHILQefdSU":
        kind = type(np.dtype(code))
        stand_ins[f"{kind.__module__}.{kind.__qualname__}"] = kind
    return [(stand_in, name) for name, stand_in in stand_ins.items()]


_PLAIN_DATA = _plain_data()


def _unwrap(content: Mapping[str, Any], label: str) -> tuple[State, str]:
    """The tensors inside, and a remark for the source's name where they are not the plain ones."""
    how = ""
    while True:
        names = (*_WRAPPERS, *_AVERAGES)
        name = next((name for name in names if isinstance(content.get(name), Mapping)), None)
        if name is None:
            break
        how = f" ({name}: an average over training, the only weights in it)" if name in _AVERAGES else how
        content = content[name]
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{label} {_without_tensors(content)}")
    _check_dense(state, label)
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state, how


def _without_tensors(content: Mapping[Any, Any]) -> str:
    """What a mapping without tensors is, and what to do about it."""
    if "param_groups" in content or any("optim" in str(key) for key in content):
        return "holds the state of an optimizer and no weights; name the file with the model's, saved beside it"
    keys = ", ".join(map(str, list(content)[:5])) or "none"
    return f"holds no tensors; its keys are {keys}; name the file of weights, or give the part that holds them"


def _check_dense(state: State, label: str) -> None:
    """Raise WeightsError for tensors whose values are not there, or not as they are computed with."""
    for key, value in state.items():
        if value.layout != torch.strided or value.is_quantized:
            kind, undo = ("quantised", "dequantize") if value.is_quantized else ("sparse", "to_dense")
            raise WeightsError(f"{label} holds {key} as a {kind} tensor; save it after .{undo}()")
    empty = [key for key, value in state.items() if not value.numel()]
    if 2 * len(empty) > len(state):
        raise WeightsError(
            f"{label} holds {len(empty)} empty tensors, such as {empty[0]}: the weights are spread over the files of "
            "several processes (DeepSpeed ZeRO-3); gather them with the zero_to_fp32.py beside them"
        )
