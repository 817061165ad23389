"""`tubelet convert`: published files of any format into folders of ours, and the table of published weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tubelet.backbones import (
    ClipSpec,
    PublishedWeights,
    UnknownModel,
    WeightsError,
    create_model,
    load_model,
    published,
    save_model,
)
from tubelet.pipeline.convert import ConvertConfig, convert
from tubelet.pipeline.errors import ConfigError

SMALL = {"num_classes": 7, "frames": 2, "size": 24, "dim": 24, "depth": 1}
CLIP = ClipSpec(2, 4, 24, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (4, 3), "dense")


def file_of(name: str, path: Path, **arguments: object) -> torch.nn.Module:
    model = create_model(name, **arguments).eval()
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    return model


def converted(source: object, out: Path, **options: object) -> str:
    return "\n".join(convert(ConvertConfig(str(source), out, **options)))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_file_whose_model_is_told_by_its_shapes(tubelet, tmp_path: Path) -> None:
    model = file_of("timesformer_tiny", tmp_path / "a.pyth", num_classes=7)
    done = tubelet("convert", tmp_path / "a.pyth", tmp_path / "out")
    assert done.code == 0, done.out
    assert "TimeSformer (official)" in done.out
    assert "told by its tensors' names and shapes, this is timesformer_tiny." in done.out
    assert f"{tmp_path / 'out'}: timesformer_tiny of 7 classes" in done.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    assert same(load_model(tmp_path / "out"), model)

    again = tubelet("convert", tmp_path / "a.pyth", tmp_path / "out")
    assert again.code == 1
    assert "already holds model.safetensors and config.json. Add --overwrite" in again.out
    words = ("--model", "timesformer_tiny", "--model-args", "drop_path=0.1", "--overwrite")
    assert tubelet("convert", tmp_path / "a.pyth", tmp_path / "out", *words).code == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["drop_path"] == 0.1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("timesformer_tiny", {"attention": "joint"}),
        ("r2plus1d_tiny", {"midplanes": "conv"}),
        ("csn_tiny", {"mode": "ir"}),
        ("vit_t_16", {"depth": 2}),
    ],
)
def test_what_shapes_tell_of_the_architecture(name: str, arguments: dict[str, object], tmp_path: Path) -> None:
    model = file_of(name, tmp_path / "a.pt", num_classes=5, **arguments)
    said = converted(tmp_path / "a.pt", tmp_path / "out")
    assert " ".join(f"{key}={value}" for key, value in arguments.items()) in said
    again = load_model(tmp_path / "out")
    assert again.config["name"] == name
    assert same(again, model)


def test_what_names_tell_of_the_architecture(tmp_path: Path) -> None:
    """Joint attention and factorised heads have tensors of the same shapes; Hugging Face has the one alone."""
    with safe_open(Path(__file__).parent.parent / "backbones/goldens/vivit-huggingface.safetensors", "pt") as file:
        create = json.loads(file.metadata()["create"])
        state = {key.removeprefix("state."): file.get_tensor(key) for key in file.keys() if key.startswith("state.")}  # noqa: SIM118
    torch.save(state, tmp_path / "a.pt")
    assert create["variant"] == "joint"
    sizes = {key: value for key, value in create.items() if key not in ("name", "num_classes", "variant")}
    converted(tmp_path / "a.pt", tmp_path / "out", model="vivit_b", model_args=sizes)
    assert load_model(tmp_path / "out").config["variant"] == "joint"


def test_a_model_that_is_named(tmp_path: Path) -> None:
    model = file_of("timesformer_tiny", tmp_path / "a.pt", **SMALL)
    arguments = {key: value for key, value in SMALL.items() if key != "num_classes"}
    converted(tmp_path / "a.pt", tmp_path / "out", model="timesformer_tiny", model_args=arguments)
    assert same(load_model(tmp_path / "out"), model)
    with pytest.raises(WeightsError, match=r"a\.pt .*does not fit timesformer_tiny.*dim 24, this model has 96"):
        converted(tmp_path / "a.pt", tmp_path / "no", model="timesformer_tiny")
    with pytest.raises(UnknownModel, match="did you mean timesformer_tiny"):
        converted(tmp_path / "a.pt", tmp_path / "no", model="timesformer_tiney")
    with pytest.raises(ConfigError, match=r"--model-args: .*no argument 'dims'"):
        converted(tmp_path / "a.pt", tmp_path / "no", model="timesformer_tiny", model_args={"dims": 3})
    assert not (tmp_path / "no").exists()


def test_a_folder_of_ours_keeps_its_configuration_and_clip(tmp_path: Path) -> None:
    model = create_model("timesformer_tiny", **SMALL, dropout=0.25)
    model.clip = CLIP
    save_model(model, tmp_path / "in")
    converted(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "in" / "config.json").read_text() == (tmp_path / "out" / "config.json").read_text()
    assert load_model(tmp_path / "out").clip == CLIP


class TestPublished:
    @pytest.fixture
    def record(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedWeights:
        arguments = {"dim": 24, "depth": 1}
        record = PublishedWeights(
            "some_weights", "timesformer_tiny", arguments, "some_file.pyth", None, "https://example.org", "CC0", "none",
            7, CLIP,
        )  # fmt: skip
        monkeypatch.setattr(published, "_records", lambda: {record.id: record})
        monkeypatch.setenv("TUBELET_HOME", str(tmp_path / "home"))
        (tmp_path / "home" / "weights" / record.id).mkdir(parents=True)
        file_of("timesformer_tiny", tmp_path / "home" / "weights" / record.id / record.file, **SMALL)
        return record

    def test_by_its_id(self, record: PublishedWeights, tmp_path: Path) -> None:
        said = converted(record.id, tmp_path / "out")
        assert "licence of the weights: CC0 (https://example.org)" in said
        assert "by its name" not in said
        model = load_model(tmp_path / "out")
        assert model.clip == CLIP
        assert model.config["dim"] == 24

    def test_a_file_by_its_name(self, record: PublishedWeights, tmp_path: Path) -> None:
        file = tmp_path / "home" / "weights" / record.id / record.file
        said = converted(file, tmp_path / "out", model_args={"frames": 4})
        assert "by its name, this file is some_weights" in said
        assert "time_embed (2 -> 4 entries" in said
        model = load_model(tmp_path / "out")
        assert (model.clip.frames, model.clip.mean) == (4, CLIP.mean)

    def test_an_id_that_is_none(self, record: PublishedWeights, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="did you mean some_weights"):
            converted("some_wieghts", tmp_path / "out")


def test_weights_that_fit_no_model(tmp_path: Path) -> None:
    torch.save({"strange.weight": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="are named as those of no model here"):
        converted(tmp_path / "a.pt", tmp_path / "out")
    state = create_model("timesformer_tiny", **SMALL).state_dict()
    del state["norm.weight"]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"no model fits these weights\. The nearest is"):
        converted(tmp_path / "a.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file_of("timesformer_tiny", tmp_path / "a.pt", **SMALL)
    with pytest.raises(ConfigError, match="is a file; OUT is a folder"):
        converted(tmp_path / "a.pt", tmp_path / "a.pt")


def test_a_file_is_converted_in_its_own_folder(tmp_path: Path) -> None:
    model = file_of("timesformer_tiny", tmp_path / "a.pt", num_classes=7)
    converted(tmp_path / "a.pt", tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    converted(tmp_path, tmp_path, overwrite=True)
    assert same(load_model(tmp_path), model)


def test_the_table_of_weights(tubelet) -> None:
    done = tubelet("models", "--weights", "--match", "vivit*")
    assert done.code == 0, done.out
    head, *lines = done.out.strip().splitlines()
    assert head.split() == ["weights", "model", "trained", "on", "top-1", "licence"]
    assert any(line.split() == ["vivit_b_fe_k400", "vivit_b", "Kinetics-400", "78.4", "unknown"] for line in lines)
    assert all(line.startswith("vivit") for line in lines)
