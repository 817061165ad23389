"""Models by name. Every architecture number is an argument whose default is the published one."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
from pathlib import Path
from typing import Any, Literal

from .c3d import ENTRIES as C3D_ENTRIES
from .csn import ENTRIES as CSN_ENTRIES
from .hub import is_on_hub
from .i3d import ENTRIES as I3D_ENTRIES
from .i3d_resnet import ENTRIES as I3D_RESNET_ENTRIES
from .image.inception import ENTRIES as GOOGLENET_ENTRIES
from .image.resnet import ENTRIES as RESNET_ENTRIES
from .image.swin import ENTRIES as SWIN_ENTRIES
from .image.uniformer import ENTRIES as UNIFORMER_IMAGE_ENTRIES
from .image.vgg import ENTRIES as VGG_ENTRIES
from .image.vit import ENTRIES as VIT_ENTRIES
from .layouts import Layout
from .model import Entry, Model
from .p3d import ENTRIES as P3D_ENTRIES
from .r2plus1d import ENTRIES as R2PLUS1D_ENTRIES
from .r3d import ENTRIES as R3D_ENTRIES
from .timesformer import ENTRIES as TIMESFORMER_ENTRIES
from .uniformer import ENTRIES as UNIFORMER_ENTRIES
from .video_swin import ENTRIES as VIDEO_SWIN_ENTRIES
from .vivit import ENTRIES as VIVIT_ENTRIES
from .xvit import ENTRIES as XVIT_ENTRIES

_ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entries in (
        C3D_ENTRIES,
        CSN_ENTRIES,
        GOOGLENET_ENTRIES,
        I3D_ENTRIES,
        I3D_RESNET_ENTRIES,
        P3D_ENTRIES,
        R2PLUS1D_ENTRIES,
        R3D_ENTRIES,
        RESNET_ENTRIES,
        SWIN_ENTRIES,
        TIMESFORMER_ENTRIES,
        UNIFORMER_ENTRIES,
        UNIFORMER_IMAGE_ENTRIES,
        VGG_ENTRIES,
        VIDEO_SWIN_ENTRIES,
        VIT_ENTRIES,
        VIVIT_ENTRIES,
        XVIT_ENTRIES,
    )
    for entry in entries
}


class UnknownModel(ValueError):
    """No model has this name; the message names the nearest ones."""


def list_models(pattern: str | None = None, kind: Literal["video", "image"] = "video") -> list[str]:
    """Sorted names, of the video models unless told otherwise; `pattern` is a shell pattern such as "timesformer*"."""
    names = sorted(entry.name for entry in _ENTRIES.values() if entry.kind == kind)
    return names if pattern is None else fnmatch.filter(names, pattern)


def model_entry(name: str) -> Entry:
    """The registry's entry for `name`; an unknown name raises UnknownModel."""
    if name in _ENTRIES:
        return _ENTRIES[name]
    near = difflib.get_close_matches(name, _ENTRIES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known models: {', '.join(list_models())}"
    raise UnknownModel(f"there is no model {name!r}; {hint}")


def create_model(
    name: str,
    num_classes: int | None = None,
    frames: int | None = None,
    size: int | None = None,
    **architecture: Any,
) -> Model:
    """Build the network `name` with fresh weights; None means the entry's published default.

    `name` may also be a folder that `save_model` or `tubelet export` wrote, or "hf-hub:owner/name" for such a folder on
    the Hugging Face Hub: see `load_model`. Those come with their weights, and None means what they were saved with.

    The model carries `.clip` (its input) and `.config`, a JSON-serialisable dict such that
    `create_model(**model.config)` builds the same network again.

    Raises UnknownModel for a name that is not registered, WeightsError for a folder without a model, TypeError for an
    argument the network does not have (the message lists those it has, with their defaults), ValueError for a value
    that makes no network.
    """
    given = {"num_classes": num_classes, "frames": frames, "size": size}
    changes = {key: value for key, value in given.items() if value is not None} | architecture
    if name not in _ENTRIES and (is_on_hub(name) or Path(name).is_dir()):
        from .weights import load_model  # which builds its models here

        return load_model(name, **changes)
    entry = model_entry(name)
    arguments = _arguments(entry, changes)
    for key in arguments.keys() & given.keys():
        if not isinstance(arguments[key], int) or arguments[key] < 1:
            raise ValueError(f"{name}: {key} must be a whole number of at least 1, got {arguments[key]!r}")
    known = inspect.signature(entry.build).parameters
    model = entry.build(**{key: value for key, value in arguments.items() if key in known})
    model.clip = entry.clip_as_built(arguments)
    model.config = {"name": name, **arguments}
    return model


def _arguments(entry: Entry, given: dict[str, Any]) -> dict[str, Any]:
    """Every argument of the entry: as given, else the entry's default, else the network's."""
    parameters = inspect.signature(entry.build).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items()} | dict(entry.defaults)
    defaults |= {key: getattr(entry.clip, key) for key in (("frames", "size") if entry.kind == "video" else ("size",))}
    for key in given:
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ";"
            known = ", ".join(f"{k}={v!r}" for k, v in defaults.items())
            raise TypeError(f"{entry.name} has no argument {key!r}{hint} It takes {known}")
    return defaults | given


def all_layouts() -> list[Layout]:
    """Every published layout of every family, each once."""
    return list(
        {layout.name: layout for entry in _ENTRIES.values() for layout in entry.build.weight_rules.layouts}.values()
    )
