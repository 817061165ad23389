"""The recipes that come with tubelet: each says where it is from, builds, and trains its tiny twin."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tubelet.backbones import Model, count_cost, create_model, model_entry, published_record
from tubelet.datasets import TrainBatch
from tubelet.pipeline import config as configuration
from tubelet.pipeline.config import RECIPES, checked
from tubelet.pipeline.inputs.clips import TrainInput
from tubelet.pipeline.inputs.mirroring import Mirroring
from tubelet.pipeline.training.groups import freeze, parameter_groups, set_training
from tubelet.pipeline.training.losses import build_loss
from tubelet.pipeline.training.optimisers import build_optimizer
from tubelet.pipeline.training.schedule import peak_rate
from tubelet.pipeline.training.setup import build_model

NAMES = sorted(file.stem for file in RECIPES.glob("*.yaml"))
PUBLISHED = [name for name in NAMES if name.endswith(("-k400", "-ssv2"))]
FINETUNE = [name for name in NAMES if name.endswith("-finetune-folder")]
FAMILIES = ("i3d", "i3d_r50", "r2plus1d", "csn", "timesformer", "vivit", "video_swin", "xvit", "uniformer")
FIELDS = {"source", "clip", "weights", "batch"}
CLASSES = {"k400": 400, "ssv2": 174}


read_recipe = cache(configuration.read_recipe)


@cache
def header(name: str) -> dict[str, str]:
    """The `# field: value` lines of a recipe; lines of the same field are joined."""
    fields: dict[str, str] = {}
    for field, value in re.findall(r"^# ([\w-]+): (.+)$", (RECIPES / f"{name}.yaml").read_text(), re.M):
        fields[field] = f"{fields[field]} {value}" if field in fields else value
    return fields


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text.split("(")[0])]


def tiny_twin(name: str) -> str:
    model = read_recipe(name).model.model
    if model.endswith("_tiny"):
        return model
    family = max((family for family in FAMILIES if family in model), key=len)
    return f"{family}_tiny"


@cache
def built(name: str, size: int | None) -> Model:
    """The recipe's model for clips of that size, on the meta device."""
    config = read_recipe(name)
    with torch.device("meta"):
        return build_model(replace(config, model=replace(config.model, size=size)), classes(name))


def classes(name: str) -> int:
    return CLASSES.get(name.rpartition("-")[2], 5)


@pytest.mark.parametrize("name", NAMES)
def test_it_lacks_only_data_and_a_place(name: str) -> None:
    assert (RECIPES / f"{name}.yaml").read_text().startswith("# "), "a recipe says what it is for"
    config = read_recipe(name)
    assert config.data.data is None
    assert config.run.out is None
    checked(replace(config, data=replace(config.data, data="d"), run=replace(config.run, out=Path("r"))))


@pytest.mark.parametrize("name", PUBLISHED + FINETUNE)
def test_the_header_says_what_the_recipe_does(name: str) -> None:
    fields, config = header(name), read_recipe(name)
    assert fields.keys() >= FIELDS
    assert numbers(fields["clip"]) == [config.model.frames, config.model.stride, config.model.size]
    assert (config.data.sampling == "segments") == ("segments" in fields["clip"])
    if name in PUBLISHED:
        temporal, spatial, size = numbers(fields["views"])
        assert config.run.views == f"{temporal:g}x{spatial:g}"
        assert (config.run.view_size or config.model.size) == size
    weights = fields["weights"].split()[0]
    assert (str(config.model.weights) if config.model.weights else "none") == weights
    if weights != "none":
        published_record(weights)
    batch, devices = numbers(fields["batch"])
    assert batch == config.data.batch_size * config.optim.accumulate * devices == config.optim.lr_batch
    assert config.augment.flip == 0 or not name.endswith("-ssv2"), "left and right are classes there"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_both_kinds(family: str) -> None:
    for names in (PUBLISHED, FINETUNE):
        assert f"{family}_tiny" in {tiny_twin(name) for name in names}


@pytest.mark.parametrize("name", NAMES)
def test_its_model_builds(name: str) -> None:
    wanted = read_recipe(name).model
    model, own = built(name, wanted.size), model_entry(wanted.model).clip
    assert model.num_classes == classes(name)
    assert (model.clip.frames, model.clip.size) == (wanted.frames or own.frames, wanted.size or own.size)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_its_model_costs_what_the_header_says(name: str) -> None:
    fields = header(name)
    model = built(name, int(numbers(fields["views"])[-1]))
    clip = model.clip
    _, macs = count_cost(model, (1, 3, clip.frames, clip.size, clip.size))
    assert macs / 1e9 == pytest.approx(float(fields["GMACs"]), abs=0.06)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_its_tiny_twin(name: str) -> None:
    """With the optimiser, loss, augmentation and regularisation of the recipe, on noise of two classes."""
    config, twin = read_recipe(name), tiny_twin(name)
    optim, rng = config.optim, np.random.default_rng(0)
    torch.manual_seed(0)
    kept = {key: value for key, value in config.model.model_args.items() if key in ("drop_path", "head_dropout")}
    model = create_model(twin, num_classes=2, frames=8, size=48, **kept)
    freeze(model, optim.tune)
    set_training(model, freeze_norms=config.system.batch_norm == "frozen")
    optimizer = build_optimizer(parameter_groups(model, optim), optim, torch.device("cpu"))
    for group in optimizer.param_groups:
        group["lr"] = peak_rate(optim, clips=4) * group["lr_scale"]
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    inputs = TrainInput(model.clip, torch.device("cpu"), "fp32", config.augment, Mirroring.of(["a", "b"], "auto"))
    shown = torch.from_numpy(rng.integers(0, 256, (4, 8, 48, 48, 3), dtype=np.uint8))
    clips, targets = inputs.train(TrainBatch(shown, torch.tensor([0, 0, 1, 1]), [], []), rng)
    loss = build_loss(optim)(model(clips), targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_grad or float("inf"))
    optimizer.step()
    after = dict(model.named_parameters())
    assert loss.isfinite()
    assert all(value.isfinite().all() for value in after.values())
    for layer in (model.layer_groups()[0], model.layer_groups()[-1]):
        assert any(not torch.equal(before[key], after[key]) for key in layer)


def test_the_table_in_the_readme() -> None:
    lines = (RECIPES / "README.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert rows == [row(name) for name in PUBLISHED] + [
        f"| `{name}` | {header(name)['clip']} | {header(name)['weights']} |" for name in FINETUNE
    ]


def row(name: str) -> str:
    fields = header(name)
    cells = [fields[key].split(" (")[0] for key in ("clip", "views", "top-1", "GMACs")]
    return f"| `{name}` | {' | '.join(cells)} | {fields['source'].split(',')[0]} |"
