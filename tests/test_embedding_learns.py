"""What training does to embeddings: neighbours of the demo set, whose classes only the order of frames tells apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
    view_batches,
)
from tubelet.pipeline.embedding.probe import knn
from tubelet.pipeline.inputs.clips import ClipInput


def vectors_of(model: Model, split: ShardedSplit) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = ClipInput(model.clip, torch.device("cpu"), "fp32")
    settings = ClipSettings(8, 2, 48)
    found = []
    with torch.inference_mode():
        for batch in view_batches(split, settings, (1, 1), range(len(split)), 25, workers=1):
            found.append((model.eval().embed(inputs.views(batch.clips)), batch.labels))
    vectors, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return vectors, labels


def accuracy(model: Model, train: ShardedSplit, val: ShardedSplit) -> float:
    (known, labels), (asked, expected) = vectors_of(model, train), vectors_of(model, val)
    return (knn(known, labels, asked, len(train.classes), 10) == expected).float().mean().item()


@pytest.mark.slow
def test_neighbours_of_a_trained_model_share_the_class(tmp_path: Path) -> None:
    prepare(
        PrepareConfig(out=tmp_path / "s", videos=make_demo(DemoConfig(tmp_path / "v", 400, pairs=1)), check="packets")
    )
    train, val = ShardedSplit(tmp_path / "s", "train"), ShardedSplit(tmp_path / "s", "val")
    torch.manual_seed(0)
    model = create_model("timesformer_tiny", num_classes=2)
    before = accuracy(model, train, val)
    order = TrainOrder(len(train), 0, 16, 1, 1)
    stream = train_batches(train, ClipSettings(8, 2, 48), order, Position(0, 0), rank=0, workers=1)
    inputs = ClipInput(model.clip, torch.device("cpu"), "fp32")
    steps = 8 * order.steps_per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        batch = next(stream)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs.views(batch.clips)), batch.labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    stream.close()
    after = accuracy(model, train, val)
    print(f"neighbours: {before:.1%} before training, {after:.1%} after")
    assert after > 0.85
    assert abs(before - 0.5) < 0.2
    assert np.isfinite(after)
