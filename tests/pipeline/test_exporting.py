"""Exported folders: every network as a graph that computes the same, what the folder says, and what goes wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import yaml
from torch import nn

sys.path.append(str(Path(__file__).parent))
from embedding_tools import save_run, tiny

from tubelet.backbones import Model, WeightsError, create_model, list_models, load_model, model_entry, save_model
from tubelet.datasets import Card, DataError
from tubelet.datasets.shards.card import Split, write_card
from tubelet.pipeline.checkpoints.trained import load_network
from tubelet.pipeline.errors import ConfigError, RunError
from tubelet.pipeline.exporting import export as exporting
from tubelet.pipeline.exporting import graphs
from tubelet.pipeline.exporting.export import ExportConfig, export
from tubelet.pipeline.exporting.graphs import METADATA, TOLERANCE, difference, traced, write_onnx, write_pt2
from tubelet.video import normalize

CLASSES = ["left | right", "b", "c", "d"]

# Of each family no more depth than shows all of it.
SHALLOW: dict[str, dict[str, Any]] = {
    "timesformer_tiny": {"depth": 1},
    "uniformer_tiny": {"depth": [1, 1, 1, 1]},
    "video_swin_tiny": {"depths": (2,), "heads": (2,)},
    "vivit_tiny": {"depth": 1, "temporal_depth": 1},
    "xvit_tiny": {"depth": 1},
}
PROGRAMS: list[tuple[str, dict[str, Any]]] = [
    ("csn_tiny", {}),
    ("i3d_tiny", {}),
    ("p3d_tiny", {}),
    ("r2plus1d_tiny", {}),
    ("r3d_tiny", {}),
    ("timesformer_tiny", {"attention": "joint"}),
    ("vivit_tiny", {}),
    ("vivit_tiny", {"variant": "factorised_attention"}),
    ("vivit_tiny", {"variant": "factorised_heads"}),
]
BOTH: list[tuple[str, dict[str, Any]]] = [
    ("c3d_tiny", {}),
    ("timesformer_tiny", {}),
    ("uniformer_tiny", {}),
    ("video_swin_tiny", {"window": (3, 3, 3)}),  # which does not divide the grid
    ("xvit_tiny", {"head": "temporal"}),
]


def network(name: str, **changes: Any) -> Model:
    torch.manual_seed(0)
    return create_model(name, num_classes=4, **SHALLOW.get(name, {}), **changes).eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data has a card, and whose checkpoint was evaluated, and so was another of the same name before."""
    run = tmp_path_factory.mktemp("runs") / "run"
    checkpoint = save_run(tiny(), run / "checkpoints" / "step-00000001", CLASSES)
    (run / "checkpoints" / "latest").write_text("step-00000001")
    (run / "shards").mkdir()
    write_card(Card("shapes", CLASSES, False, {"train": Split(9, 9, dict.fromkeys(CLASSES, 2), [])}), run / "shards")
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"data": str(run / "shards")}}))
    sha256 = json.loads((checkpoint / "checkpoint.json").read_text())["files"]["model.safetensors"]
    scores = {"split": "val", "views": "4x3", "average": "softmax", "videos": 8, "video_top1": 0.625, "mean_ap": None}
    (checkpoint / "evaluation-val-4x3.json").write_text(json.dumps({**scores, "weights_sha256": sha256}))
    other = {**scores, "views": "9x3", "weights_sha256": "0"}
    (checkpoint / "evaluation-val-9x3.json").write_text(json.dumps(other))
    return run


def exported(checkpoint: Path | None, out: Path, **options: Any) -> list[str]:
    return list(export(ExportConfig(checkpoint, out, **options)))


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_folder_is_the_network_with_its_clip_and_classes(run: Path, tmp_path: Path) -> None:
    said = exported(run, tmp_path / "some" / "out", licence="MIT")
    assert "model.safetensors: the network's 49 tensors, to the bit" in said
    assert not any("note:" in line for line in said)
    assert sorted(path.name for path in (tmp_path / "some" / "out").iterdir()) == [
        "README.md", "about.json", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["out"], "something is left over"
    ours, theirs = load_network(run), load_network(tmp_path / "some" / "out")
    assert (theirs.clip, theirs.classes, theirs.multilabel) == (ours.clip, CLASSES, False)
    clips = torch.rand(2, 3, 8, 48, 48)
    model = create_model(str(tmp_path / "some" / "out")).eval()
    assert torch.equal(model(clips), ours.model(clips))
    assert model.classes == CLASSES


def test_a_folder_with_other_classes_is_a_start(run: Path, tmp_path: Path) -> None:
    exported(run, tmp_path / "out")
    model = create_model(str(tmp_path / "out"), num_classes=7)
    assert (model.num_classes, model.classes) == (7, None)
    assert torch.equal(model.get_parameter("cls_token"), load_model(tmp_path / "out").get_parameter("cls_token"))
    with pytest.raises(TypeError, match="no argument 'dims'"):
        create_model(str(tmp_path / "out"), dims=3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"config\.json cannot be read as a model's configuration"):
        create_model(str(tmp_path / "empty"))


def test_the_clip_of_the_training_is_saved(tmp_path: Path) -> None:
    checkpoint = save_run(tiny(), tmp_path / "run", CLASSES)
    state = json.loads((checkpoint / "checkpoint.json").read_text())
    state |= {"clip": {"frames": 8, "stride": 5, "size": 48, "sampling": "segments"}, "multilabel": True}
    (checkpoint / "checkpoint.json").write_text(json.dumps(state))
    exported(checkpoint, tmp_path / "out")
    trained = load_network(tmp_path / "out")
    assert (trained.clip.stride, trained.clip.sampling, trained.multilabel) == (5, "segments", True)
    assert front_matter((tmp_path / "out" / "README.md").read_text())["metrics"] == ["mAP"]


def test_the_card_says_what_is_known(run: Path, tmp_path: Path) -> None:
    exported(run, tmp_path / "out", licence="My own 1.0")
    card = (tmp_path / "out" / "README.md").read_text()
    front = front_matter(card)
    assert (front["license"], front["license_name"]) == ("other", "My own 1.0")
    assert (front["library_name"], front["pipeline_tag"]) == ("tubelet", "video-classification")
    assert (front["datasets"], front["metrics"]) == (["shapes"], ["accuracy"])
    (result,) = front["model-index"][0]["results"]
    assert [(one["name"], one["value"]) for one in result["metrics"]] == [("top-1 (4x3 views)", 0.625)]
    for part in (
        "| val | 4x3 | softmax | 8 | 62.50% |",
        "| train | 9 | 4 |",
        "4 classes, one label",
        "depth=2",
        *CLASSES,
    ):
        assert part in card, part
    assert "9x3" not in card, "scores of other weights"
    assert str(run) not in card, "a path of this machine"


def test_what_an_export_tells_the_next_one_keeps(run: Path, tmp_path: Path) -> None:
    """Licence, data and scores; and scores of the folder itself are added to them."""
    exported(run, tmp_path / "first", licence="mit")
    said = exported(tmp_path / "first", tmp_path / "second")
    assert not any("note:" in line for line in said)
    cards = [(tmp_path / name / "README.md").read_text() for name in ("first", "second")]
    assert cards[0] == cards[1]
    assert (tmp_path / "first" / "about.json").read_text() == (tmp_path / "second" / "about.json").read_text()
    assert str(run) not in (tmp_path / "first" / "about.json").read_text(), "a path of this machine"
    sha256 = json.loads((tmp_path / "second" / "about.json").read_text())["weights_sha256"]
    scores = {"split": "val", "average": "softmax", "videos": 8, "weights_sha256": sha256}
    for views, top1 in (("4x3", 0.75), ("1x1", 0.5)):
        file = tmp_path / "second" / f"evaluation-val-{views}.json"
        file.write_text(json.dumps({**scores, "views": views, "video_top1": top1}))
    exported(tmp_path / "second", tmp_path / "third", licence="cc0-1.0")
    card = (tmp_path / "third" / "README.md").read_text()
    assert front_matter(card)["license"] == "cc0-1.0"
    for part in (
        "| val | 4x3 | softmax | 8 | 75.00% |",
        "| val | 1x1 | softmax | 8 | 50.00% |",
        "4 classes, one label",
    ):
        assert part in card, part
    assert "62.50%" not in card, "the scores that were measured again"


def test_what_was_told_of_other_weights_is_not_kept(run: Path, tmp_path: Path) -> None:
    exported(run, tmp_path / "first", licence="mit")
    model = tiny()
    torch.nn.init.ones_(model.head.bias)
    save_model(model, tmp_path / "other")
    (tmp_path / "other" / "about.json").write_text((tmp_path / "first" / "about.json").read_text())
    assert "the model card gives no licence" in "\n".join(exported(tmp_path / "other", tmp_path / "out"))
    (tmp_path / "first" / "about.json").write_text("{")
    with pytest.raises(WeightsError, match=r"about\.json: is damaged \(.*\)\. Remove it, or export the run again"):
        exported(tmp_path / "first", tmp_path / "out2")


def test_what_is_not_known_is_told(tmp_path: Path) -> None:
    save_model(tiny(), tmp_path / "converted")
    said = "\n".join(exported(tmp_path / "converted", tmp_path / "out"))
    assert "the model card says nothing of the data: only a training run knows it. --data FOLDER" in said
    assert "the model card gives no licence" in said
    card = (tmp_path / "out" / "README.md").read_text()
    assert front_matter(card)["license"] == "unknown"
    assert "classes=[...]" in card, "the usage has to name what the weights do not"
    run = save_run(tiny(), tmp_path / "run" / "checkpoints" / "step-00000001")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"data": {"data": str(tmp_path / "gone")}}))
    assert f"nothing of the data: {tmp_path / 'gone'}: no such folder" in "\n".join(exported(run, tmp_path / "out2"))
    with pytest.raises(DataError, match="no such folder"):
        exported(run, tmp_path / "out3", data=tmp_path / "gone")
    assert not (tmp_path / "out3").exists()


def test_a_program_for_any_number_of_clips(run: Path, tmp_path: Path) -> None:
    """Loaded as a user would, with nothing of ours."""
    exported(run, tmp_path / "out", format=("pt2",))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "about.json", "config.json", "model.pt2",
    ]  # fmt: skip
    about = {METADATA: ""}
    program = torch.export.load(tmp_path / "out" / "model.pt2", extra_files=about).module()
    told = json.loads(about[METADATA])
    assert told["classes"] == CLASSES
    assert told["input"]["shape"] == ["batch", 8, 48, 48, 3]
    model = load_network(run).model
    for batch in (1, 2, 5):
        frames = torch.randint(0, 256, (batch, 8, 48, 48, 3), dtype=torch.uint8)
        expected = model(normalize(frames, told["clip"]["mean"], told["clip"]["std"]))
        torch.testing.assert_close(program(frames), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(WeightsError, match=r"without a model\.safetensors"):
        load_model(tmp_path / "out")


def test_each_family_is_among_them() -> None:
    tried = {model_entry(name).build for name, _ in (*PROGRAMS, *BOTH)}
    assert {model_entry(name).build for name in list_models()} <= tried


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes"), PROGRAMS)
def test_families_as_programs(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = network(name, **changes)
    assert write_pt2(traced(model), model, tmp_path / "model.pt2", {}) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes"), BOTH)
def test_families_as_onnx_too(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = network(name, **changes)
    program = traced(model)
    assert write_pt2(program, model, tmp_path / "model.pt2", {}) <= TOLERANCE
    assert write_onnx(program, model, tmp_path / "model.onnx", {"classes": CLASSES}) <= TOLERANCE
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == CLASSES
    (frames,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (frames.name, frames.type, frames.shape[1:]) == ("frames", "tensor(uint8)", [8, 48, 48, 3])
    assert isinstance(frames.shape[0], str), "the number of clips is fixed"
    assert logits.name == "logits"


def test_a_difference_is_seen_in_parts_of_the_largest_score() -> None:
    model = network("timesformer_tiny", dim=24)
    with torch.no_grad():
        model.head.weight *= 1e-6  # untrained networks have scores so small that any two are near each other
        model.head.bias *= 0
    same = graphs.FromFrames(model).eval()
    assert difference(same, model) < 1e-5
    assert difference(lambda frames: same(frames) * (1 + 3e-3), model) == pytest.approx(3e-3, rel=0.1)
    assert difference(lambda frames: same(frames[:1]).expand(len(frames), -1), model) > TOLERANCE, "one clip for all"
    assert difference(lambda frames: same(frames.flip(1)), model) > TOLERANCE, "time backwards"
    assert not difference(lambda frames: same(frames) * float("nan"), model) <= TOLERANCE
    assert not difference(lambda frames: same(frames)[:, :2], model) <= TOLERANCE


def test_a_graph_that_differs_is_not_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        graphs.FromFrames, "forward", lambda self, frames: self.model.head.bias.detach().expand(frames.shape[0], -1)
    )
    with pytest.raises(
        RunError, match=r"model\.pt2: its scores differ .* by \d.*e[-+]\d+ of the largest .*1e-04 is allowed"
    ):
        exported(run, tmp_path / "out", format=("safetensors", "pt2"))
    assert not list(tmp_path.iterdir()), "something half written stays"


def test_a_network_that_cannot_be_traced(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fickle(nn.Module):
        def __init__(self, model: Model):
            super().__init__()

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return frames if frames.sum().item() > 0 else frames[:1]

    monkeypatch.setattr(graphs, "FromFrames", Fickle)
    with pytest.raises(RunError, match=r"graph: this network cannot be exported so \(.+: .+\)\. Nothing was written"):
        exported(run, tmp_path / "out", format=("pt2",))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        exported(run, tmp_path / "file")
    with pytest.raises(ConfigError, match=r"out: cannot be written \(.+\)\. Name another folder"):
        exported(run, tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(RunError, match="no such folder"):
        exported(tmp_path / "no", tmp_path / "out")
    with pytest.raises(ConfigError, match="needs --checkpoint RUN and --out FOLDER"):
        exported(None, tmp_path / "out")
    with pytest.raises(ConfigError, match="name at least one"):
        exported(run, tmp_path / "out", format=())
    with pytest.raises(ConfigError, match="give it together with --push"):
        exported(run, tmp_path / "out", private=True)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"--format onnx needs onnxscript: pip install 'tubelet\[export\]'"):
        exported(run, tmp_path / "out", format=("onnx",))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "model_card", full)
    with pytest.raises(OSError, match="No space left"):
        exported(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())
