"""What an evaluation follows where its arguments say nothing: the recipe, and what published weights are of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torchvision.models.video import R3D_18_Weights

from tubelet.backbones import create_model, load_model, model_entry, save_model
from tubelet.datasets import ShardedSplit
from tubelet.launch.evaluate import main
from tubelet.pipeline.checkpoints.state import Clip
from tubelet.pipeline.checkpoints.trained import Trained, load_network
from tubelet.pipeline.config import RunConfig, TrainConfig, read_recipe
from tubelet.pipeline.errors import ConfigError
from tubelet.pipeline.evaluation.classes import check_classes, classes_of
from tubelet.pipeline.evaluation.evaluate import EvaluateConfig, protocol
from tubelet.pipeline.training.setup import clip_of

KINETICS_400 = R3D_18_Weights.KINETICS400_V1.meta["categories"]

CPU_IS_FULL = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


def trained(classes: int, dataset: str | None = None, name: str = "c3d_tiny", **given: object) -> Trained:
    model = create_model(name, num_classes=classes)
    return Trained(model, Clip.of(model.clip), None, "0", "weights", dataset=dataset, **given)  # type: ignore[arg-type]


def split_of(classes: list[str]) -> ShardedSplit:
    card = SimpleNamespace(multilabel=False)
    return SimpleNamespace(classes=classes, data="shards", card=card, require_one_label=lambda: None)  # type: ignore[return-value]


def test_a_run_is_evaluated_as_its_recipe_says(tmp_path: Path) -> None:
    """From the recipe into the folder of weights that training saves, and from there; arguments win."""
    config = TrainConfig(run=RunConfig(views="2x3", view_size=64))
    model = create_model("i3d_tiny", num_classes=2)
    assert protocol(EvaluateConfig(), trained(2, name="i3d_tiny")) == (
        model_entry("i3d_tiny").clip.views,
        Clip.of(model.clip),
    )
    model.clip = clip_of(config, model)
    save_model(model, tmp_path)
    run = replace(trained(2, name="i3d_tiny"), model=load_model(tmp_path))
    assert protocol(EvaluateConfig(), run) == ((2, 3), replace(run.clip, size=64))
    assert protocol(EvaluateConfig(views="1x1", view_size=48), run) == ((1, 1), run.clip)


def test_weights_of_kinetics_for_another_dataset_get_its_views() -> None:
    """Those of Something-Something, where the weights that training begins with were tested otherwise."""
    config = read_recipe("uniformer_b-ssv2")
    model = create_model("uniformer_tiny", num_classes=2)
    model.clip = replace(model.clip, views=(4, 1))
    clip = clip_of(config, model)
    assert (clip.views, clip.sampling, clip.stride) == ((1, 3), "segments", 1)


def test_a_size_that_the_network_cannot_take() -> None:
    with pytest.raises(ConfigError, match="--view-size 64: weights takes no other size than 48"):
        protocol(EvaluateConfig(view_size=64), trained(2))


def test_a_size_that_the_memory_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions take any size; the words are those of PyTorch on a CPU, the class that of a GPU."""
    network = trained(2, name="r3d_tiny")
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried\nto"), RuntimeError(CPU_IS_FULL)):

        def full(clip: torch.Tensor, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(network.model, "forward", full)
        with pytest.raises(ConfigError, match="--view-size 64: one clip of 8 frames does not fit into the memory"):
            protocol(EvaluateConfig(view_size=64), network)


class TestClassesOfPublishedWeights:
    @pytest.mark.parametrize("dataset", ["Kinetics-400", None])
    def test_kinetics_400_is_known(self, dataset: str | None) -> None:
        names, told = classes_of(trained(400, dataset), split_of(KINETICS_400), None)
        assert names == KINETICS_400
        assert "the 400 of Kinetics-400" in told
        other = split_of([*KINETICS_400[:-1], "zzz"])
        with pytest.raises(ConfigError, match="1 are missing, such as 'zumba'; 1 are unknown to it, such as 'zzz'"):
            check_classes(other, classes_of(trained(400, dataset), other, None)[0], "weights")

    def test_of_the_others_the_list_of_the_data_is_taken(self) -> None:
        names, told = classes_of(trained(3, "Something-Something V2"), split_of(["a", "B", "c"]), None)
        assert names == ["a", "B", "c"]
        assert "the 3 of shards, alphabetically, as those of Something-Something V2" in told
        with pytest.raises(ConfigError, match="shards: its classes are not in alphabetical order, and weights"):
            classes_of(trained(3, "Kinetics-700"), split_of(["b", "a", "c"]), None)

    @pytest.mark.parametrize(("dataset", "classes"), [("Something-Something V2", 4), (None, 3), ("Sports-1M", 3)])
    def test_nothing_else_is(self, dataset: str | None, classes: int) -> None:
        with pytest.raises(ConfigError, match=r"without the names of their 3 classes.*Give --classes FILE"):
            classes_of(trained(3, dataset), split_of([str(number) for number in range(classes)]), None)

    def test_a_converted_folder_with_a_file_of_names(
        self, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        monkeypatch.chdir(tmp_path)
        classes = ShardedSplit(dataset, "val").classes
        save_model(create_model("c3d_tiny", num_classes=len(classes), frames=8, size=32), tmp_path / "converted")
        words = ["--checkpoint", "converted", "--data", str(dataset), "--workers", "0"]
        with pytest.raises(ConfigError, match=r"converted: these weights come without.*Give --classes FILE"):
            main(words)
        (tmp_path / "names.txt").write_text("\n".join(classes))
        main([*words, "--classes", "names.txt"])
        assert f"the {len(classes)} of names.txt" in capsys.readouterr().out
        told = json.loads((tmp_path / "converted" / "evaluation-val-1x3.json").read_text())
        assert (told["views"], told["videos"]) == ("1x3", 8)
        (tmp_path / "names.txt").write_text("a\nb")
        with pytest.raises(ConfigError, match="names 2 classes, and converted tells 4 apart"):
            main([*words, "--classes", "names.txt"])

    def test_a_run_has_names_of_its_own(self, checkpoint: Path, dataset: Path) -> None:
        with pytest.raises(ConfigError, match=r"names its classes itself\. Leave --classes out"):
            main(["--checkpoint", str(checkpoint), "--data", str(dataset), "--classes", "x.txt"])
        assert load_network(checkpoint).classes == ShardedSplit(dataset, "val").classes
