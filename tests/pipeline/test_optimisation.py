"""Optimisation: rates, groups, optimisers, the average, losses, BatchNorm."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tubelet.backbones import Model, create_model
from tubelet.pipeline.cluster.distributed import World
from tubelet.pipeline.config import OptimConfig
from tubelet.pipeline.errors import ConfigError
from tubelet.pipeline.training.batchnorm import convert_norms, retake_statistics
from tubelet.pipeline.training.ema import Average
from tubelet.pipeline.training.groups import freeze, parameter_groups, set_training
from tubelet.pipeline.training.losses import build_loss, hits, shown_label
from tubelet.pipeline.training.optimisers import Lamb, build_optimizer
from tubelet.pipeline.training.schedule import learning_rate, peak_rate

COSINE = OptimConfig(epochs=10, lr=1.0, warmup_epochs=2.0, min_lr=0.1)
STEPS = replace(COSINE, schedule="step", step_epochs=(4.0, 8.0), step_factor=0.1, warmup_start=0.2)


@given(st.floats(0, 12), st.sampled_from([COSINE, STEPS, replace(COSINE, schedule="constant")]))
def test_the_rate_stays_in_range(epoch: float, optim: OptimConfig) -> None:
    assert 0 <= learning_rate(epoch, optim, 1.0) <= 1


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0), (1, 0.5), (2, 1), (6, 0.55), (10, 0.1), (12, 0.1)])
def test_the_rate_warms_up_and_falls_along_a_cosine(epoch: float, rate: float) -> None:
    assert learning_rate(epoch, COSINE, 1.0) == pytest.approx(rate)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.2), (1, 0.6), (2, 1), (3.9, 1), (4, 0.1), (8, 0.01), (12, 0.01)])
def test_the_rate_falls_in_steps(epoch: float, rate: float) -> None:
    assert learning_rate(epoch, STEPS, 1.0) == pytest.approx(rate)


def test_the_rate_follows_the_batch() -> None:
    assert peak_rate(OptimConfig(lr=0.1), clips=8) == 0.1
    assert peak_rate(OptimConfig(lr=0.1, lr_batch=64), clips=8) == pytest.approx(0.0125)


@pytest.fixture
def model() -> Model:
    return create_model("timesformer_tiny", num_classes=3)


def names(model: Model, groups: list[dict], **wanted: float) -> set[str]:
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    chosen = [group for group in groups if all(group[key] == value for key, value in wanted.items())]
    return {by_id[id(parameter)] for group in chosen for parameter in group["params"]}


def test_biases_norms_and_embeddings_do_not_decay(model: Model) -> None:
    groups = parameter_groups(model, OptimConfig())
    decayed, spared = (names(model, groups, weight_decay=decay) for decay in (0.05, 0.0))
    assert decayed | spared == {name for name, _ in model.named_parameters()}
    assert not decayed & spared
    assert {"pos_embed", "time_embed", "cls_token", "norm.weight", "head.bias"} <= spared
    assert {"head.weight", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} <= decayed
    assert "norm.weight" in names(model, parameter_groups(model, OptimConfig(norm_decay=True)), weight_decay=0.05)


def test_earlier_layers_learn_more_slowly(model: Model) -> None:
    groups = parameter_groups(model, OptimConfig(layer_decay=0.5, head_lr=10.0))
    scales = {group["lr_scale"] for group in groups}
    assert scales == {10.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125}
    assert names(model, groups, lr_scale=10.0) == {"head.weight", "head.bias"}
    assert "patch_embed.proj.weight" in names(model, groups, lr_scale=0.03125)
    assert "blocks.3.attn.qkv.weight" in names(model, groups, lr_scale=0.5)


@pytest.mark.parametrize(("tune", "trained"), [("head", 0), ("2", 1), ("full", 4)])
def test_what_is_frozen_neither_trains_nor_drops_out(model: Model, tune: str, trained: int) -> None:
    said = freeze(model, tune)
    assert "parameters are trained" in said
    set_training(model, freeze_norms=False)
    blocks = [any(p.requires_grad for p in block.parameters()) for block in model.blocks]
    assert blocks == [False] * (4 - trained) + [True] * trained
    assert [block.training for block in model.blocks] == blocks
    assert all(p.requires_grad for p in model.head.parameters())
    assert names(model, parameter_groups(model, OptimConfig())) == {
        name for name, p in model.named_parameters() if p.requires_grad
    }


def test_more_layers_than_there_are(model: Model) -> None:
    with pytest.raises(ConfigError, match="--tune 9: the model has 6 layers besides its head"):
        freeze(model, "9")


def quadratic(optimizer_of, steps: int = 30) -> Iterator[nn.Linear]:
    torch.manual_seed(0)
    layer = nn.Linear(8, 4).double()
    optimizer = optimizer_of([{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}])
    x, y = torch.randn(32, 8).double(), torch.randn(32, 4).double()
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(layer(x), y).backward()
        optimizer.step()
    return layer


def test_lamb_is_timms() -> None:
    from timm.optim import Lamb as Reference

    ours = quadratic(lambda groups: Lamb(groups, lr=0.02))
    groups = {"eps": 1e-6, "max_grad_norm": None, "weight_decay": 0.0}
    theirs = quadratic(lambda params: Reference(params, lr=0.02, **groups))
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_a_step_that_is_no_number_changes_nothing(name: str, model: Model) -> None:
    optim = OptimConfig(optimizer=name, lr=0.1)
    optimizer = build_optimizer(parameter_groups(model, optim), optim, torch.device("cpu"))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    before, states = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
    for parameter in model.parameters():
        parameter.grad.fill_(float("nan"))
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for number, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, states[number][key]) for key, value in state.items())
    optimizer.found_inf = torch.zeros(())
    for parameter in model.parameters():
        parameter.grad.fill_(1.0)
    optimizer.step()
    assert not torch.equal(model.head.weight, before["head.weight"])


def test_the_average_trails_behind_and_can_be_looked_through(model: Model) -> None:
    average, start = Average(model, 0.9), model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight.add_(1.0)
    for step in range(1, 200):
        average.update(step)
    trained = model.head.weight
    with average.in_place():
        assert torch.allclose(model.head.weight, start + 1, atol=1e-4)
        saved = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert model.head.weight is trained
    assert torch.equal(trained, start + 1)
    again = Average(model, 0.9)
    again.load(saved)
    with again.in_place():
        assert torch.equal(model.head.weight, saved["head.weight"])


def test_losses() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    shares = F.one_hot(labels, 3).float()
    cross = build_loss(OptimConfig(label_smoothing=0.1))
    assert torch.allclose(cross(logits, labels), cross(logits, shares))
    bce = build_loss(OptimConfig(loss="bce"))
    assert torch.allclose(bce(logits, labels), F.binary_cross_entropy_with_logits(logits, shares))
    several = torch.tensor([[True, True, False]] * 4)
    assert torch.allclose(bce(logits, several), F.binary_cross_entropy_with_logits(logits, several.float()))


def test_hits_of_mixed_and_of_several_labels() -> None:
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert hits(logits, torch.tensor([0, 2])) == 1
    assert hits(logits, torch.tensor([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0]])) == 1
    assert hits(logits, torch.tensor([[True, True, False], [True, True, False]])) == 2
    assert shown_label(torch.tensor([[0.2, 0.8]])).tolist() == [1]


def test_statistics_taken_anew_are_those_of_the_batches() -> None:
    model = create_model("r3d_tiny", width=8)
    set_training(model, freeze_norms=False)
    batches = [torch.randn(4, 3, 2, 16, 16) * 3 + shift for shift in (-4, 1, 9)]
    retake_statistics(model, batches)
    with torch.no_grad():
        stem = [model.conv1(batch) for batch in batches]
    means = torch.stack([out.mean((0, 2, 3, 4)) for out in stem]).mean(0)
    variances = torch.cat(stem).var((0, 2, 3, 4))
    torch.testing.assert_close(model.bn1.running_mean, means)
    torch.testing.assert_close(model.bn1.running_var, variances, rtol=2e-3, atol=1e-5)
    assert model.bn1.momentum == 0.1


def test_frozen_statistics_stay() -> None:
    model = create_model("r3d_tiny", width=8)
    set_training(model, freeze_norms=True)
    before = model.bn1.running_mean.clone()
    model(torch.randn(2, 3, 2, 16, 16))
    assert torch.equal(model.bn1.running_mean, before)
    assert model.bn1.weight.requires_grad


def test_statistics_of_all_processes_need_gpus(model: Model) -> None:
    with pytest.raises(ConfigError, match="--batch-norm sync needs GPUs"):
        convert_norms(model, "sync", World(0, 2, 2, torch.device("cpu")))
