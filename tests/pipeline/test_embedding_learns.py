"""What training does to embeddings: neighbours in the demo set, whose classes only the order of frames tells apart."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tubelet.backbones import create_model
from tubelet.datasets import DemoConfig, PrepareConfig, ShardedSplit, make_demo, prepare
from tubelet.launch.embed import main as embed
from tubelet.launch.probe import main as probe

sys.path.append(str(Path(__file__).parent))
from embedding_tools import save_run


@pytest.mark.slow
def test_neighbours_of_a_trained_model_share_the_class(tubelet, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """By the commands, on the same held-out videos before and after. Of a transformer: random convolutions over time
    tell some motion apart as they are."""
    shards = tmp_path / "shards"
    prepare(
        PrepareConfig(
            out=shards, videos=make_demo(DemoConfig(tmp_path / "videos", 400, pairs=1)), check="packets", split="0.25"
        )
    )
    torch.manual_seed(0)
    untrained = save_run(
        create_model("timesformer_tiny", num_classes=2), tmp_path / "untrained", ShardedSplit(shards, "val").classes
    )
    trained = tmp_path / "trained"
    words = ("--batch-size", 16, "--epochs", 6, "--eval-every", 0, "--save-every", 6, "--workers", 1)
    done = tubelet("train", "--recipe", "demo", "--data", shards, "--out", trained, *words)
    assert done.code == 0, done.out

    def probed(run: Path) -> dict[str, float]:
        out = run / "embeddings"
        embed(["--checkpoint", str(run), "--data", str(shards), "--out", str(out), "--workers", "1"])
        capsys.readouterr()
        probe([str(out), "--json"])
        return json.loads(capsys.readouterr().out)

    before, after = probed(untrained), probed(trained)
    assert before["how"] == after["how"] == "300 videos of train, 100 of val"
    assert abs(before["knn"] - 0.5) < 0.2, before
    assert after["knn"] > 0.85, after
    assert after["linear"] > 0.85, after
