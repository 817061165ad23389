"""Files of weights: every format read, every broken file refused with one clear error, folders written whole."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tubelet.backbones import WeightsError, create_model, load_model, load_weights, save_model

SMALL = {"num_classes": 3, "frames": 2, "size": 24, "dim": 24, "depth": 1}


@pytest.fixture
def model():
    return create_model("timesformer_tiny", **SMALL)


def write(kind: str, state: dict, folder: Path) -> Path:
    path = folder / f"weights.{kind.removeprefix('legacy.')}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model_state": state}, path, _use_new_zipfile_serialization=not kind.startswith("legacy"))
    return path


@pytest.mark.parametrize("kind", ["pt", "pth", "legacy.pyth", "safetensors"])
def test_formats_are_read(kind: str, model, tmp_path: Path) -> None:
    other = create_model("timesformer_tiny", **SMALL)
    load_weights(other, write(kind, model.state_dict(), tmp_path))
    assert torch.equal(other.pos_embed, model.pos_embed)


def test_a_safetensors_file_may_bear_another_ending(model, tmp_path: Path) -> None:
    path = write("safetensors", model.state_dict(), tmp_path).rename(tmp_path / "weights.pth")
    assert load_weights(model, str(path)).source == str(path)


@pytest.mark.parametrize("kind", ["pt", "legacy.pyth", "safetensors"])
@pytest.mark.parametrize("keep", [0.1, 0.9])
def test_a_truncated_file_is_refused(kind: str, keep: float, model, tmp_path: Path) -> None:
    path = write(kind, model.state_dict(), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(WeightsError, match=r"truncated|damaged"):
        load_weights(model, path)


class Rogue:
    """Pickles as a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_pickle_with_code_is_refused_unopened(model, tmp_path: Path) -> None:
    torch.save({"model": model.state_dict(), "extra": Rogue(tmp_path / "mark")}, tmp_path / "rogue.pt")
    with pytest.raises(WeightsError, match="run code when unpickled"):
        load_weights(model, tmp_path / "rogue.pt")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"version https://git-lfs.github.com/spec/v1\n", "begins with b'version https"), (b"", "it is empty")],
)
def test_a_text_file_is_refused(content: bytes, says: str, model, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=says):
        load_weights(model, tmp_path / "weights.pth")


def test_what_holds_no_tensors_is_refused(model, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no file"):
        load_weights(model, tmp_path / "nowhere.pt")
    with pytest.raises(WeightsError, match=r"without a model\.safetensors"):
        load_weights(model, tmp_path)
    with pytest.raises(WeightsError, match="holds no tensors"):
        load_weights(model, {"epoch": 3})
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds a list"):
        load_weights(model, tmp_path / "list.pt")


def test_a_saved_model_comes_back(model, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    save_model(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode
    again = load_model(folder)
    clip = torch.randn(1, 3, 2, 24, 24)
    assert torch.equal(again.eval()(clip), model.eval()(clip))
    assert again.config == model.config
    save_model(again, folder)
    assert load_weights(model, folder).total == len(model.state_dict())


def test_a_saved_model_is_refused_when_its_configuration_is_not_ours(model, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "timesformer"}))
    with pytest.raises(WeightsError, match="names no model of ours"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_model(tmp_path)
