"""The proof that a model uses time: the demo set, whose classes differ in nothing but the order of frames.

Every tiny model takes the steps of the demo recipe on the clips that the loader makes for it, decoded once for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock

from tubelet.backbones import ClipSpec, Model, create_model, list_models
from tubelet.datasets import (
    ClipSettings,
    DemoConfig,
    Position,
    PrepareConfig,
    ShardedSplit,
    TrainBatch,
    TrainOrder,
    make_demo,
    prepare,
    train_batches,
    view_batches,
)
from tubelet.pipeline.config import TrainConfig, read_recipe
from tubelet.pipeline.inputs.clips import ClipInput, TrainInput
from tubelet.pipeline.inputs.mirroring import Mirroring
from tubelet.pipeline.training.groups import parameter_groups
from tubelet.pipeline.training.schedule import learning_rate

CPU = torch.device("cpu")
# Those of the recipe. Most models are above 85 % after three or four, where they stop; the slowest, by how sums happen
# to be rounded, after four to seven.
EPOCHS = 10
# A guess between the two classes of a pair gives 50 %, however long one trains; those that see are far above by then.
BLIND_EPOCHS = 2
BLIND = [("c2d_r50_tiny", {}), ("timesformer_tiny", {"attention": "space"})]
# Of TimeSformer pipeline/test_embedding_learns.py shows the same through the commands.
SIGHTED = [(name, {}) for name in list_models("*_tiny") if name not in ("c2d_r50_tiny", "timesformer_tiny")]


@dataclass
class Clips:
    """The clips of a whole run: 8 frames of 48 pixels, 2 apart, as every tiny model takes them."""

    recipe: TrainConfig
    batches: list[TrainBatch]
    classes: list[str]
    steps_per_epoch: int
    views: torch.Tensor
    labels: torch.Tensor


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Clips:
    """Of the demo set, made once for all workers of pytest-xdist, whose folders lie beside each other."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder if worker_id == "master" else folder.parent
    made, recipe = folder / "demo-clips.pt", read_recipe("demo")
    with FileLock(folder / "demo.lock"):
        if not made.exists():
            videos, shards = make_demo(DemoConfig(out=folder / "demo-videos")), folder / "demo-shards"
            prepare(PrepareConfig(out=shards, videos=videos, check="packets"))
            torch.save(decoded(shards, recipe), folder / "demo-clips.unfinished")
            (folder / "demo-clips.unfinished").rename(made)
    kept = torch.load(made, weights_only=True, mmap=True)
    batches = [TrainBatch(*batch, faults=[], slow=[]) for batch in kept.pop("batches")]
    return Clips(recipe, batches, **kept)


def decoded(shards: Path, recipe: TrainConfig) -> dict[str, object]:
    """What `Clips` has besides the recipe, of types that are safe to load."""
    train, val = ShardedSplit(shards, "train"), ShardedSplit(shards, "val")
    settings = ClipSettings(8, 2, 48, crop_scale=recipe.data.crop_scale)
    order = TrainOrder(len(train), 0, recipe.data.batch_size, 1, 1)
    stream = train_batches(train, settings, order, Position(0, 0), rank=0, workers=1)
    batches = [next(stream) for _ in range(order.steps_per_epoch * EPOCHS)]
    assert not any(batch.faults or batch.slow for batch in batches)
    views = [(b.clips, b.labels) for b in view_batches(val, settings, (1, 3), range(len(val)), 20, workers=1)]
    seen, labels = (torch.cat(parts) for parts in zip(*views, strict=True))
    return {
        "batches": [(batch.clips, batch.labels) for batch in batches], "classes": train.classes,
        "steps_per_epoch": order.steps_per_epoch, "views": seen, "labels": labels,
    }  # fmt: skip


def top1_after_training(model: Model, clips: Clips, enough: float = 1.0, epochs: int = EPOCHS) -> float:
    """Train as the recipe says; the share of held-out videos that the mean over three crops puts first.

    From the second epoch on, training ends after one that brings more than `enough`.
    """
    assert model.clip == ClipSpec(8, 2, 48, model.clip.mean, model.clip.std, model.clip.views, "dense")
    optim, augment = clips.recipe.optim, clips.recipe.augment
    inputs = TrainInput(model.clip, CPU, "fp32", augment, Mirroring.of(clips.classes, augment.flip_pairs))
    optimizer = torch.optim.AdamW(parameter_groups(model, optim), betas=optim.betas)
    for step, batch in enumerate(clips.batches[: epochs * clips.steps_per_epoch]):
        epoch, begins = divmod(step, clips.steps_per_epoch)
        if not begins and epoch >= 2 and enough < 1.0 and (found := top1(model, inputs, clips)) > enough:
            return found
        model.train()
        rate = learning_rate(step / clips.steps_per_epoch, optim, optim.lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        seen, labels = inputs.train(batch, np.random.default_rng(step))
        optimizer.zero_grad()
        F.cross_entropy(model(seen), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_grad)
        optimizer.step()
    return top1(model, inputs, clips)


def top1(model: Model, inputs: ClipInput, clips: Clips) -> float:
    model.eval()
    with torch.inference_mode():
        scores = [
            model(inputs.views(views)).softmax(-1).unflatten(0, (-1, 3)).mean(1) for views in clips.views.split(20)
        ]
    return (torch.cat(scores).argmax(-1) == clips.labels).float().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), SIGHTED, ids=[name for name, _ in SIGHTED])
def test_tiny_models_learn_the_order_of_frames(name: str, arguments: dict, clips: Clips) -> None:
    torch.manual_seed(0)
    assert top1_after_training(create_model(name, **arguments), clips, enough=0.85) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), BLIND, ids=[name for name, _ in BLIND])
def test_models_that_average_frames_do_not(name: str, arguments: dict, clips: Clips) -> None:
    torch.manual_seed(0)
    assert top1_after_training(create_model(name, **arguments), clips, epochs=BLIND_EPOCHS) < 0.6
