"""The parts of the pipeline that are functions: views and inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tubelet.backbones import create_model
from tubelet.datasets import TrainBatch
from tubelet.pipeline.config import AugmentConfig
from tubelet.pipeline.errors import ConfigError
from tubelet.pipeline.evaluation.evaluate import parse_views
from tubelet.pipeline.inputs.clips import ClipInput, TrainInput
from tubelet.pipeline.inputs.mirroring import Mirroring


@pytest.mark.parametrize(("text", "views"), [("4x3", (4, 3)), ("1x1", (1, 1)), ("10×3", (10, 3))])
def test_views(text: str, views: tuple[int, int]) -> None:
    assert parse_views(text) == views


@pytest.mark.parametrize("text", ["0x3", "4x2", "4x0", "x3", "4", "4x3x1", "-1x3", "four"])
def test_views_that_make_no_sense(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--views {text}: give temporal x spatial"):
        parse_views(text)


CLASSES = ["to the left", "still", "to the right"]
HARD = AugmentConfig(
    rand_augment="m9-n4-p1-inc1", color_jitter=(0.4, 0.4, 0.4, 0.1), gray=0.2, erasing=1.0, mixup=0.8, cutmix=1.0
)


def train_input(config: AugmentConfig, precision: str = "fp32") -> TrainInput:
    clip = create_model("timesformer_tiny", num_classes=3).clip
    return TrainInput(clip, torch.device("cpu"), precision, config, Mirroring.of(CLASSES, "auto"))


@pytest.fixture
def batch() -> TrainBatch:
    clips = torch.randint(0, 256, (4, 4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TrainBatch(clips, torch.tensor([0, 1, 2, 1]), [], [])


def test_clips_are_normalised_and_can_be_looked_at(batch: TrainBatch) -> None:
    inputs = train_input(AugmentConfig(flip=0.0))
    ready, labels = inputs.train(batch, np.random.default_rng(0))
    assert torch.equal(ready, inputs.views(batch.clips)), "no augmentation changes nothing"
    assert torch.equal(labels, batch.labels)
    mean, std = inputs.clip.mean[0], inputs.clip.std[0]
    assert torch.allclose(ready[0, 0], (batch.clips[0, ..., 0] / 255 - mean) / std, atol=1e-6)
    assert torch.equal(inputs.pictures(ready), batch.clips)


def test_clips_are_mirrored_with_their_labels(batch: TrainBatch) -> None:
    inputs = train_input(AugmentConfig(flip=1.0))
    ready, labels = inputs.train(batch, np.random.default_rng(0))
    assert labels.tolist() == [2, 1, 0, 1]
    assert torch.equal(ready, inputs.views(batch.clips).flip(-1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_training_batch_follows_from_its_generator(precision: str, batch: TrainBatch) -> None:
    inputs, before = train_input(HARD, precision), batch.clips.clone()
    torch.manual_seed(0)
    ready, targets = inputs.train(batch, np.random.default_rng(1))
    state = torch.get_rng_state()
    again, same = inputs.train(batch, np.random.default_rng(1))
    assert torch.equal(ready, again)
    assert torch.equal(targets, same)
    assert torch.equal(state, torch.get_rng_state()), "dropout is drawn as without augmentation"
    assert torch.equal(batch.clips, before)
    assert ready.dtype == {"fp32": torch.float32, "fp16": torch.float16}[precision]
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert not torch.equal(ready, inputs.train(batch, np.random.default_rng(2))[0])
    assert inputs.pictures(ready).shape == batch.clips.shape


@pytest.mark.parametrize(
    ("lacks", "precision", "said"), [(True, "bf16", True), (True, "fp32", False), (False, "bf16", False)]
)
def test_bf16_without_instructions_for_it_is_said(lacks: bool, precision: str, said: bool, monkeypatch, capsys) -> None:
    monkeypatch.setattr("tubelet.pipeline.inputs.clips.lacks_bf16", lambda device: lacks)
    ClipInput(create_model("c3d_tiny").clip, torch.device("cpu"), precision)
    assert ("no bf16 instructions" in capsys.readouterr().err) is said
