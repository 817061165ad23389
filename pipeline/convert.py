"""Weights of any publisher into a folder of ours, and which model they are of where nobody says."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from tubelet.backbones import (
    PublishedWeights,
    SavedModel,
    WeightsError,
    count_classes,
    create_model,
    list_models,
    load_weights,
    meant_by,
    model_entry,
    published_weights,
    read_weights,
    recognise,
    save_model,
    saved_model,
    shapes_of,
)

from .config import KeyValues
from .errors import ConfigError

# What architectures that are only guessed at raise: refused arguments, and shapes that do not go together.
_NO_SUCH_NETWORK = (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class ConvertConfig:
    source: tyro.conf.Positional[str]
    """File of weights, folder of Hugging Face, or id of published weights."""
    out: tyro.conf.Positional[Path]
    """Folder to write model.safetensors and config.json into."""
    model: str = ""
    """Name of the model the weights are of (default: that of the published weights, or the one they fit)."""
    model_args: KeyValues = field(default_factory=dict)
    """Architecture arguments of the model, such as frames=16 midplanes=conv."""
    overwrite: bool = False
    """Replace a model that OUT holds."""


def convert(config: ConvertConfig) -> Iterator[str]:
    """Writes the folder, and tells what was done to the weights. Raises ConfigError and WeightsError."""
    taken = [name for name in ("model.safetensors", "config.json") if (config.out / name).exists()]
    if config.out.is_file():
        raise ConfigError(f"{config.out} is a file; OUT is a folder, in which model.safetensors is written")
    if taken and not config.overwrite:
        raise ConfigError(f"{config.out} already holds {' and '.join(taken)}. Add --overwrite or name another folder")
    weights, label = read_weights(config.source)
    saved = _saved(Path(config.source))
    call, remark = _call(config, weights, saved)
    call |= config.model_args
    clip = call.pop("clip", None)
    try:
        model = create_model(**call)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--model-args: {error}") from error
    if clip is not None:
        model.clip = replace(clip, frames=model.clip.frames, size=model.clip.size)
    if saved is not None and saved.call["name"] == model.config["name"]:
        saved.describe(model)
    try:
        report = load_weights(model, weights)
    except WeightsError as error:
        raise WeightsError(str(error).replace("state dict", label, 1)) from error
    report.source = label
    save_model(model, config.out)
    if remark:
        report.notes.append(remark)
    yield str(report)
    if record := _record(config.source):
        yield f"licence of the weights: {record.licence} ({record.source})"
    yield f"{config.out}: {model.config['name']} of {model.num_classes} classes"


def _record(source: str) -> PublishedWeights | None:
    """The record that the source is the id of, or whose file it is by its name."""
    named = [record for record in published_weights() if record.file == Path(source).name]
    return meant_by(source) or (named[0] if len(named) == 1 and Path(source).exists() else None)


def _call(config: ConvertConfig, weights: Mapping[str, Tensor], saved: SavedModel | None) -> tuple[dict[str, Any], str]:
    """The call of create_model that builds what the weights are of, with `clip` where the source tells of one; and a
    remark on how that is known, where it might be wrong."""
    record, remark = _record(config.source), ""
    if record is not None and config.model in ("", record.model):
        call = {**record.call, "clip": record.clip}
        remark = "" if record.id == config.source else f"by its name, this file is {record.id}"
    elif saved is not None and config.model in ("", saved.call["name"]):
        call = dict(saved.call)
    elif config.model:
        call = {"name": config.model, **_settings(config.model, weights)}
    else:
        call = _told_by(weights, config.model_args)
        shown = " ".join(f"{key}={value}" for key, value in call.items() if key not in ("name", "num_classes"))
        remark = (
            f"told by its tensors' names and shapes, this is {call['name']}{f' with {shown}' if shown else ''}. What "
            "those do not show, strides, epsilons and the clip, is as that model has it: say otherwise with --model "
            "and --model-args"
        )
    if call.get("num_classes") is None:
        call["num_classes"] = count_classes(call["name"], weights)
    return call, remark


def _settings(name: str, weights: Mapping[str, Tensor]) -> dict[str, object]:
    """What the publisher's network of these weights computes with, as far as their names tell."""
    layout = recognise(model_entry(name).build.weight_rules.layouts, dict(weights))
    shapes = shapes_of(weights)
    with suppress(*_NO_SUCH_NETWORK):  # load_weights will say why
        return {} if layout is None else layout.settings(layout.convert(shapes))
    return {}


def _saved(folder: Path) -> SavedModel | None:
    """What a folder that `save_model` wrote says."""
    try:
        return saved_model(folder)
    except WeightsError:
        return None


def _told_by(weights: Mapping[str, Tensor], model_args: Mapping[str, Any]) -> dict[str, Any]:
    """The call of the model that the weights fit as it stands, else with the fewest arguments told otherwise; among
    such, with the least change. Nothing is computed: shapes suffice.

    Raises WeightsError where none or several fit: with names, of which one has to be told.
    """
    shapes = shapes_of(weights)
    candidates = sorted(_candidates(shapes, model_args), key=lambda candidate: len(candidate[1]))
    fits: list[tuple[tuple[int, int], dict[str, Any]]] = []
    for call, differences, arguments in candidates:
        changes = len(differences)
        if fits and changes > fits[0][0][0]:
            break
        with torch.device("meta"), suppress(*_NO_SUCH_NETWORK), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of networks that are tried and make no sense
            call |= {key: value for key, value in differences.items() if key in arguments}
            report = load_weights(create_model(**call), shapes)
            if not (report.inflated or report.copied or report.initialised):
                fits.append(((changes, len(report.resized)), call))
    best = [call for changes, call in fits if changes == min(changes for changes, _ in fits)]
    if len(best) == 1:
        return best[0]
    names = ", ".join(call["name"] for call in best)
    if best:
        raise WeightsError(f"these weights fit {names} alike; say which with --model NAME")
    if not candidates:
        raise WeightsError("these weights are named as those of no model here; `tubelet models` lists the models")
    call, differences, _ = candidates[0]
    told = ", ".join(f"{key} {value}" for key, value in differences.items())
    raise WeightsError(
        f"no model fits these weights. The nearest is {call['name']}, from which they differ in {told or 'shapes'}: "
        "say so with --model NAME --model-args KEY=VALUE"
    )


def _candidates(
    shapes: Mapping[str, Tensor], model_args: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], dict[str, object], Set[str]]]:
    """Models whose layouts know the tensors' names: the call of each, how the weights' architecture differs, and the
    arguments that it has."""
    for name in [*list_models(), *list_models(kind="image")]:
        rules = model_entry(name).build.weight_rules
        layout = recognise(rules.layouts, dict(shapes))
        if layout is None:
            continue
        try:
            call = {"name": name, "num_classes": count_classes(name, shapes), **model_args}
            with torch.device("meta"):
                model = create_model(**call)
            renamed = layout.convert(dict(shapes))
            ours = model.config | rules.traits(model.state_dict())
            theirs = rules.traits(renamed) | layout.settings(renamed)
        except _NO_SUCH_NETWORK:  # it has no such argument, or only the first names are the same
            continue
        yield call, {key: value for key, value in theirs.items() if ours.get(key) != value}, model.config.keys()
