from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tubelet.launch.main import parse
from tubelet.pipeline.config import (
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    as_yaml,
    checked,
    read_recipe,
)
from tubelet.pipeline.errors import ConfigError
from tubelet.pipeline.training.setup import build_model

WHOLE = TrainConfig(
    model=ModelConfig(model="timesformer_tiny"), data=DataConfig(data="d"), run=RunConfig(out=Path("r"))
)


def recipe(tmp_path: Path, text: str) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return str(file)


def test_arguments_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path: Path) -> None:
    base = read_recipe(recipe(tmp_path, "optim: {epochs: 3, lr: 0.5}\nmodel: {model_args: {depth: 2}}"))
    config = parse(TrainConfig, "train", "", ["--epochs", "5", "--batch-size", "2"], base)
    assert (config.optim.epochs, config.optim.lr, config.data.batch_size) == (5, 0.5, 2)
    assert config.model.model_args == {"depth": 2}
    assert config.optim.weight_decay == OptimConfig().weight_decay


def test_none_takes_the_recipes_value_away() -> None:
    recipe = read_recipe("timesformer-finetune-folder")
    assert recipe.model.weights is not None
    config = parse(TrainConfig, "train", "", ["--weights", "none", "--lr-batch", "none", "--sampling", "none"], recipe)
    assert (config.model.weights, config.optim.lr_batch, config.data.sampling) == (None, None, None)
    again = parse(TrainConfig, "train", "", ["--weights", "vit_b_16_in21k_augreg", "--lr-batch", "8"], recipe)
    assert (again.model.weights, again.optim.lr_batch) == (Path("vit_b_16_in21k_augreg"), 8)


def test_model_arguments_are_typed(tmp_path: Path) -> None:
    words = ["--model-args", "depth=2", "drop_path=0.1", "attention=joint", "qkv_bias=false"]
    config = parse(TrainConfig, "train", "", words)
    assert config.model.model_args == {"depth": 2, "drop_path": 0.1, "attention": "joint", "qkv_bias": False}


def test_what_is_saved_gives_the_run_again(tmp_path: Path) -> None:
    config = replace(WHOLE, model=ModelConfig(model="x", model_args={"depth": 2}, frames=4))
    assert read_recipe(recipe(tmp_path, as_yaml(config))) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {epoch: 3}", "unknown key optim.epoch; did you mean epochs?"),
        ("optimizer: {}", "unknown key optimizer; did you mean optim?"),
        ("optim: {epochs: many}", "optim.epochs: input should be a valid integer.*got 'many'"),
        ("optim: {lr: -1}", "optim.lr: input should be greater than 0, got -1"),
        ("system: {precision: fp8}", "system.precision: input should be 'fp32', 'bf16' or 'fp16', got 'fp8'"),
        ("augment: {rand_augment: m7-n4}", "augment.rand_augment: write RandAugment as .*got 'm7-n4'"),
        ("augment: {color_jitter: [0.4, 0.4, 0.4, 0.6]}", "augment.color_jitter.3: input should be less than or equal"),
        ("optim: [", "is not readable YAML"),
        ("just words", "recipe.yaml"),
    ],
)
def test_recipes_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(recipe(tmp_path, text))


def test_a_recipe_runs_no_command(tmp_path: Path) -> None:
    assert read_recipe(recipe(tmp_path, "data: {data: 's3://bucket/{00..99}.tar'}")).data.data
    with pytest.raises(ConfigError, match="Only one on the command line is run: give it as --data"):
        read_recipe(recipe(tmp_path, "data: {data: 'pipe:touch here'}"))


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean demo\?.*finetune-tiny"):
        read_recipe("demos")


def test_what_a_run_needs_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match=r"training needs --model NAME, --data DIR, --out RUN.*tubelet prepare"):
        checked(TrainConfig())
    with pytest.raises(ConfigError, match=r"needs --out RUN.*there: deepspeed launch/train.py --recipe demo --data d "):
        checked(replace(WHOLE, run=RunConfig(recipe="demo")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim": OptimConfig(epochs=0)}, "optim.epochs: input should be greater than or equal to 1, got 0"),
        ({"optim": OptimConfig(warmup_epochs=40.0)}, "--warmup-epochs 40 is longer than --epochs 30"),
        ({"data": DataConfig(data="d", crop_scale=(0.9, 0.5))}, "--crop-scale"),
        ({"augment": AugmentConfig(erasing_area=(0.5, 0.1))}, "--erasing-area"),
        (
            {"augment": AugmentConfig(mixup=0.8), "data": DataConfig(data="d", batch_size=1)},
            "--batch-size must be 2 or more",
        ),
        ({"data": DataConfig(data="d", crop_jitter=(0.9, 1.5))}, "--crop-jitter"),
        ({"data": DataConfig(data="d", repeats=3)}, "--batch-size 8 is not a multiple of --repeats 3"),
        ({"data": DataConfig(data="d", balance=1.5)}, "data.balance: input should be less than or equal to 1, got 1.5"),
    ],
)
def test_ranges_are_checked_wherever_a_value_came_from(change: dict, message: str) -> None:
    assert checked(WHOLE) == WHOLE
    with pytest.raises(ConfigError, match=message):
        checked(replace(WHOLE, **change))


def test_an_unknown_model_argument_names_the_known_ones() -> None:
    config = replace(WHOLE, model=ModelConfig(model="timesformer_tiny", model_args={"dept": 2}))
    with pytest.raises(ConfigError, match="depth"):
        build_model(config, 5)


@pytest.mark.parametrize(("local_rank", "speaks"), [("0", True), ("1", False)])
def test_one_process_of_a_machine_says_what_is_misspelt(
    local_rank: str, speaks: bool, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tubelet.launch.main._PATIENCE", 0.0)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit) as ended:
        parse(TrainConfig, "train", "", ["--epoch", "3"])
    told = "".join(capsys.readouterr())
    assert ended.value.code == 2
    assert ("--epochs" in told) is speaks
    assert bool(told) is speaks
