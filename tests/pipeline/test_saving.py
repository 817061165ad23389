"""Which checkpoints are kept, and what damage and full disks do to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tubelet.backbones import create_model
from tubelet.pipeline.checkpoints import saving
from tubelet.pipeline.checkpoints.finding import load_trained, named
from tubelet.pipeline.checkpoints.saving import Checkpoints
from tubelet.pipeline.checkpoints.state import STATE_FILE, TRAINING_FILE, WEIGHTS_FILE, Clip, State
from tubelet.pipeline.cluster.distributed import World
from tubelet.pipeline.errors import RunError

ALONE = World(0, 1, 1, torch.device("cpu"))
MODEL = create_model("timesformer_tiny", num_classes=2, depth=1)


def save(checkpoints: Checkpoints, step: int, score: float | None = None) -> None:
    metrics = None if score is None else {"main": score}
    state = State(step, 0, step, MODEL.config, ["a", "b"], Clip(8, 2, 48, "dense"), metrics)
    checkpoints.save(state, MODEL, {"step": torch.tensor(float(step))})
    checkpoints.finish()


def steps(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ALONE, 2, 0.0)
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.7), (4, None), (5, 0.8)):
        save(checkpoints, step, score)
    assert steps(tmp_path) == [2, 4, 5]
    assert named(tmp_path / "checkpoints", "best").name == "step-00000002"
    assert named(tmp_path / "checkpoints", "latest").name == "step-00000005"


def test_one_in_some_hours_is_kept_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(saving.time, "time", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, ALONE, 1, 1.0)
    for step in range(1, 8):
        now[0] += 1800
        save(checkpoints, step)
    assert steps(tmp_path) == [2, 4, 6, 7]


def test_a_damaged_one_is_passed_over_aloud(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, ALONE, 3, 0.0)
    for step in (1, 2, 3):
        save(checkpoints, step)
    damage(tmp_path / "checkpoints" / "step-00000003" / TRAINING_FILE)
    (tmp_path / "checkpoints" / "step-00000002" / STATE_FILE).write_text("{")
    found, state = checkpoints.newest_whole()  # type: ignore[misc]
    assert (found.name, state.step) == ("step-00000001", 1)
    said = capsys.readouterr().err
    assert "step-00000003/training.safetensors: is damaged" in said
    assert "step-00000002/checkpoint.json: is missing or damaged" in said
    damage(found / WEIGHTS_FILE)
    with pytest.raises(RunError, match="none of its 3 checkpoints is whole"):
        checkpoints.newest_whole()
    with pytest.raises(RunError, match=r"model\.safetensors: is damaged"):
        load_trained(found)


def test_damage_does_not_keep_new_ones_from_being_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ALONE, 1, 1.0)
    save(checkpoints, 1, 0.5)
    (tmp_path / "checkpoints" / "step-00000001" / STATE_FILE).write_text(json.dumps({}))
    save(checkpoints, 2, 0.4)
    assert checkpoints.failed is None
    assert named(tmp_path / "checkpoints", "latest").name == "step-00000002"
    assert named(tmp_path / "checkpoints", "best").name == "step-00000002"


def test_a_full_disk_leaves_the_last_one_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, ALONE, 2, 0.0)
    save(checkpoints, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_file", full)
        save(checkpoints, 2)
    assert "step 2 could not be written" in (checkpoints.failed or "")
    assert "No space left on device" in capsys.readouterr().err
    assert steps(tmp_path) == [1]
    assert not list((tmp_path / "checkpoints").glob("unfinished-*"))
    save(checkpoints, 3)
    assert checkpoints.failed is None
    assert steps(tmp_path) == [1, 3]


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "unfinished-step-00000009").mkdir(parents=True)
    assert Checkpoints(tmp_path, ALONE, 2, 0.0).newest_whole() is None
    assert steps(tmp_path) == []
    assert not list((tmp_path / "checkpoints").iterdir())
