"""What training does to embeddings: neighbours in the demo set, whose classes only the order of frames tells apart."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tubelet.backbones import Model, create_model
from tubelet.datasets import (
    ClipSettings,
    DemoConfig,
    Position,
    PrepareConfig,
    ShardedSplit,
    TrainOrder,
    make_demo,
    prepare,
    train_batches,
)
from tubelet.pipeline.embedding.embed import EmbedConfig, embed
from tubelet.pipeline.embedding.probe import ProbeConfig, Probed, probe
from tubelet.pipeline.inputs.clips import ClipInput

sys.path.append(str(Path(__file__).parent))
from embedding_tools import save_run


def probed(model: Model, shards: Path, folder: Path) -> Probed:
    run = save_run(model, folder / "run", ["right", "left"])
    return probe(ProbeConfig(embed(EmbedConfig(run, str(shards), out=folder / "embeddings", workers=1))))


@pytest.mark.slow
def test_neighbours_of_a_trained_model_share_the_class(tmp_path: Path) -> None:
    videos = make_demo(DemoConfig(tmp_path / "videos", 400, pairs=1))
    prepare(PrepareConfig(out=tmp_path / "shards", videos=videos, check="packets", split="0.25"))
    train = ShardedSplit(tmp_path / "shards", "train")
    torch.manual_seed(0)
    model = create_model("timesformer_tiny", num_classes=2)
    before = probed(model.eval(), tmp_path / "shards", tmp_path / "before")
    order = TrainOrder(len(train), 0, 16, 1, 1)
    stream = train_batches(train, ClipSettings(8, 2, 48), order, Position(0, 0), rank=0, workers=1)
    inputs = ClipInput(model.clip, torch.device("cpu"), "fp32")
    steps = 6 * order.steps_per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        batch = next(stream)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs.views(batch.clips)), batch.labels).backward()
        optimizer.step()
        schedule.step()
    stream.close()
    after = probed(model.eval(), tmp_path / "shards", tmp_path / "after")
    print(f"before training: {before}\nafter: {after}")
    assert after.knn > 0.85
    assert after.linear > 0.85
    assert abs(before.knn - 0.5) < 0.2
