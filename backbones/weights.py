"""Weights into models, from any publisher's file; models to and from folders."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from .hub import model_folder
from .layouts import Layout, LoadReport, State, WeightsError, recognise, shapes_of, summarise_names
from .model import ClipSpec, Model
from .published import clip_spec, fetch, published_record
from .registry import all_layouts, create_model, model_entry
from .weight_files import read_weights

_SHOWN = 4
_MISSHAPEN = (IndexError, KeyError, RuntimeError, ValueError, ZeroDivisionError)  # of tensors with other axes
_COUNTER = ".num_batches_tracked"  # of BatchNorm; nothing is computed from it where the momentum is a number


def load_weights(model: Model, source: str | Path | Mapping[str, Tensor], strict: bool = True) -> LoadReport:
    """Load published or our own weights into `model`, and report what was done.

    source: a file of weights of any usual format (see `read_weights`), a folder of such, the id of published weights,
    which are fetched (see `published_weights`), or a state dict. Its layout is recognised by its keys. A head of
    another number of classes is dropped, embeddings of another size are resized, and an image network's weights are
    lifted; the report says so. With `strict=False`, tensors that do not fit are dropped and those not found stay as
    initialised, and the report names them.

    Raises WeightsError if the source cannot be read, belongs to another network, or (strict) leaves anything unmatched.
    """
    raw, label = read_weights(source)
    rules = model.weight_rules
    layout = recognise(rules.layouts, raw)
    if layout is None:
        raise WeightsError(_unrecognised(model, raw, label))
    report = LoadReport(label, layout.name, total=len(model.state_dict()))
    state = _fitted(model, layout, raw, report)
    own = model.state_dict()
    _drop_foreign_head(state, own, report)

    shapes = {key: (tuple(state[key].shape), tuple(own[key].shape)) for key in own if key in state}
    misfits = {key: f"{theirs}, here {ours}" for key, (theirs, ours) in shapes.items() if theirs != ours}
    unexpected = [key for key in state if key not in own]
    missing = [key for key in own if key not in state and key not in report.initialised and not key.endswith(_COUNTER)]
    if strict and (misfits or unexpected or missing):
        raise WeightsError(_unfit(model, state, report, misfits, unexpected, missing))
    report.dropped |= misfits | dict.fromkeys(unexpected, f"no such tensor in {_name(model)}")
    report.initialised += [*missing, *misfits]
    model.load_state_dict({key: value for key, value in state.items() if key not in report.dropped}, strict=False)
    report.loaded = [key for key in own if key in state and key not in report.dropped]
    return report


def save_model(model: Model, folder: str | Path) -> None:
    """Write `model.safetensors` and `config.json` into `folder`, each put in place whole or not at all.

    The configuration has the model's clip and, where they are known, the names of its classes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as workshop:
        save_file(tensors, Path(workshop, "model.safetensors"), metadata={"format": "pt"})
        content = model.config | _own_clip(model) | _own_classes(model)
        Path(workshop, "config.json").write_text(json.dumps(content, indent=2) + "\n")
        shutil.copymode(Path(workshop, "config.json"), Path(workshop, "model.safetensors"))  # else the owner's alone
        for name in ("model.safetensors", "config.json"):
            os.replace(Path(workshop, name), folder / name)


@dataclass(frozen=True)
class SavedModel:
    """What `config.json` of a folder says: the call of `create_model`, the clip where it is not the usual one of that
    model, and the classes as `Model` has them."""

    call: dict[str, Any]
    clip: ClipSpec | None
    classes: list[str] | None
    multilabel: bool

    def describe(self, model: Model) -> None:
        """Put into `model`, built with `call` or a change of it, what is still true of it."""
        if self.clip is not None:
            model.clip = replace(self.clip, frames=model.clip.frames, size=model.clip.size)
        if self.classes is not None and len(self.classes) == model.num_classes:
            model.classes, model.multilabel = self.classes, self.multilabel


def saved_model(folder: str | Path) -> SavedModel:
    """What `save_model` wrote to `folder` besides the weights. Raises WeightsError if it holds none of that."""
    path = Path(folder, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as a model's configuration ({error})") from error
    if not isinstance(config, dict) or "name" not in config:
        raise WeightsError(
            f"{path} names no model of ours; build one with create_model, then load_weights from {folder}"
        )
    clip, classes, multilabel = (config.pop(key, None) for key in ("clip", "classes", "multilabel"))
    try:
        clip = None if clip is None else clip_spec(clip)
    except (AttributeError, TypeError) as error:
        raise WeightsError(f"{path} has a clip that is none ({error}); download or save it again") from error
    return SavedModel(config, clip, classes, bool(multilabel))


def load_model(source: str | Path, **changes: Any) -> Model:
    """Build the model that `save_model` wrote to a folder, or that lies on the Hugging Face Hub ("hf-hub:owner/name"),
    weights included. `changes` are arguments of `create_model` that win over those saved.

    Raises WeightsError if there is none.
    """
    folder = model_folder(source)
    saved = saved_model(folder)
    model_entry(saved.call["name"])  # a folder must not send its reader to another one
    model = create_model(**{**saved.call, **changes})
    saved.describe(model)
    load_weights(model, folder)
    return model


def create_published(name: str, **changes: Any) -> Model:
    """Build the model that the published weights `name` are of and load them; its `clip` is the one they were trained
    for. `changes` are arguments of `create_model` that win over the record's.

    Raises WeightsError where there is no such record, or the file cannot be had or does not fit.
    """
    record = published_record(name)
    path, call = fetch(record), record.call
    if record.classes is None:
        call["num_classes"] = count_classes(record.model, read_weights(path)[0])
    model = create_model(**{**call, **changes})
    model.clip = record.clip_for(model.clip)
    load_weights(model, path)
    return model


def count_classes(name: str, weights: Mapping[str, Tensor]) -> int | None:
    """How many classes weights of the model `name`, in any layout known for it, tell apart; None without a head."""
    layout = recognise(model_entry(name).build.weight_rules.layouts, dict(weights))
    shapes = shapes_of(weights)
    head = None if layout is None else layout.convert(shapes).get("head.weight")
    return None if head is None else head.shape[0]


def _own_clip(model: Model) -> dict[str, Any]:
    """The model's clip for its configuration, where it is not the one that its name has in the registry."""
    clip = getattr(model, "clip", None)
    if clip is None or "name" not in model.config:
        return {}
    usual = model_entry(model.config["name"]).clip_as_built(model.config)
    return {} if clip == usual else {"clip": asdict(clip)}


def _own_classes(model: Model) -> dict[str, Any]:
    classes, multilabel = getattr(model, "classes", None), getattr(model, "multilabel", False)
    return {} if classes is None else {"classes": classes, **({"multilabel": True} if multilabel else {})}


def _other_settings(model: Model, settings: Mapping[str, object], layout: str) -> list[str]:
    """What the publisher's network computes otherwise than this one, though its weights fit."""
    differ = {key: value for key, value in settings.items() if model.config.get(key, value) != value}
    ours = ", ".join(f"{key}={model.config[key]!r}" for key in differ)
    theirs = ", ".join(f"{key}={value!r}" for key, value in differ.items())
    return [f"{layout} computes with {theirs}, this model with {ours}: create it with {theirs} for the publisher's "
            "numbers"] if differ else []  # fmt: skip


def _drop_foreign_head(state: State, own: Mapping[str, Tensor], report: LoadReport) -> None:
    """Drop a classifier of another number of classes, and accept weights that have none."""
    head = [key for key in own if key.startswith("head.")]
    theirs = state.get("head.weight")
    if theirs is None:
        report.initialised += head
    elif theirs.ndim and theirs.shape[0] != own["head.weight"].shape[0]:
        why = f"{theirs.shape[0]} classes, this model has {own['head.weight'].shape[0]}"
        report.dropped |= {key: why for key in head if state.pop(key, None) is not None}
        report.initialised += head


def _fitted(model: Model, layout: Layout, raw: State, report: LoadReport) -> State:
    """The weights under our names, by the family's rules; WeightsError where their shapes are beyond the rules."""
    try:
        state = layout.convert(raw)
        report.notes += _other_settings(model, layout.settings(state), layout.name)
        return model.weight_rules.fit(model, state, report)
    except WeightsError:
        raise
    except _MISSHAPEN as error:
        raise WeightsError(
            f"{report.source} ({report.layout}) does not fit {_name(model)}: it has the names, but tensors of other "
            f"shapes than that network ({type(error).__name__}: {error}); download or save it again"
        ) from error


def _traits(model: Model, state: State) -> dict[str, object]:
    """The architecture that weights show, as far as their shapes are those of any."""
    try:
        return model.weight_rules.traits(state)
    except _MISSHAPEN:
        return {}


def _unrecognised(model: Model, raw: State, label: str) -> str:
    other = recognise(tuple(all_layouts()), raw)
    what = f"these are weights of {other.name}" if other else "its keys are of no network known here"
    return (
        f"{label} does not fit {_name(model)}: {what}; it begins with {_some(raw)}. Name weights of this network, or "
        "build the one that they are of"
    )


def _unfit(
    model: Model,
    state: State,
    report: LoadReport,
    misfits: Mapping[str, str],
    unexpected: list[str],
    missing: list[str],
) -> str:
    """Name the likely cause, from how the two architectures differ, then the first keys of each kind."""
    theirs, ours = _traits(model, state), _traits(model, model.state_dict())
    differ = [
        f"{key} {value}, this model has {ours[key]}" for key, value in theirs.items() if ours.get(key, value) != value
    ]
    cause = f"these are weights of {'; '.join(differ)}" if differ else "the keys do not match"
    lists = (
        ("other shape", [f"{k} {v}" for k, v in misfits.items()]),
        ("unexpected", unexpected),
        ("missing", missing),
    )
    detail = "; ".join(f"{kind}: {_some(names)}" for kind, names in lists if names)
    mend = "build the network with these arguments" if differ else "strict=False loads what fits"
    return f"{report.source} ({report.layout}) does not fit {_name(model)}: {cause}; {mend}. {detail}"


def _some(names: Mapping[str, object] | list[str]) -> str:
    shown = list(summarise_names(dict.fromkeys(names, "")))
    return ", ".join(shown[:_SHOWN]) + (f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


def _name(model: Model) -> str:
    return str(model.config.get("name", type(model).__name__))
