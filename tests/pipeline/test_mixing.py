"""The share of a label in the target is the share of its clip in the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet.pipeline.config import AugmentConfig
from tubelet.pipeline.inputs.mixing import _cutmix_box, mix

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
BOTH = AugmentConfig(mixup=0.8, cutmix=1.0)


def constant(values: list[float], device: str = "cpu") -> torch.Tensor:
    """Clips (B, 3, 2, 20, 30) in channels-last memory, all pixels of one the same."""
    clips = torch.tensor(values, device=device).view(-1, 1, 1, 1, 1).expand(-1, 2, 20, 30, 3)
    return clips.contiguous().permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mix_per", ["batch", "sample"])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_are_the_shares_of_the_pixels(mixup: float, cutmix: float, mix_per: str, device: str) -> None:
    """Clip i holds the value i, and so does class i: the mean pixel is the mean of the target."""
    clips, labels = constant([0.0, 1.0, 2.0, 3.0, 4.0], device), torch.arange(5, device=device)
    config = AugmentConfig(mixup=mixup, cutmix=cutmix, mix_per=mix_per)
    changed = 0
    for seed in range(20):
        mixed, targets = mix(clips, labels, 7, config, np.random.default_rng(seed))
        assert targets.shape == (5, 7)
        assert torch.allclose(targets.sum(1), torch.ones(5, device=device), atol=1e-6)
        means = (targets * torch.arange(7, device=device)).sum(1)
        assert torch.allclose(mixed.mean((1, 2, 3, 4)), means, atol=1e-4)
        assert (mixed == mixed[:, :1, :1]).all(), "all frames and channels alike"
        assert mixed.permute(0, 2, 3, 4, 1).is_contiguous()
        changed += int((mixed != clips).any())
        if mix_per == "batch":
            assert torch.allclose(targets[0, 0], targets[1, 1])
        if not mixup:
            assert set(mixed.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}, "CutMix pastes, it does not blend"
    assert changed > 15
    assert torch.equal(clips, constant([0.0, 1.0, 2.0, 3.0, 4.0], device)), "what came in has changed"


def test_the_switch_and_the_probability() -> None:
    clips, labels = constant([0.0, 1.0]), torch.arange(2)

    def kinds(config: AugmentConfig) -> list[str]:
        found = []
        for seed in range(300):
            mixed, targets = mix(clips, labels, 2, config, np.random.default_rng(seed))
            blended = ((mixed > 0) & (mixed < 1)).any()
            found.append("mixup" if blended else "cutmix" if targets[0, 0] < 1 else "none")
        return found

    found = kinds(AugmentConfig(mixup=1.0, cutmix=1.0, mix_prob=0.5, mix_switch=0.25))
    assert found.count("mixup") / 300 == pytest.approx(0.375, abs=0.08)
    assert found.count("cutmix") / 300 == pytest.approx(0.125, abs=0.06)
    assert set(kinds(AugmentConfig(mixup=1.0, mix_prob=0.0))) == {"none"}


def test_the_shares_are_beta_distributed() -> None:
    clips, labels = constant([0.0, 1.0]), torch.arange(2)
    config = AugmentConfig(mixup=0.2)
    shares = [mix(clips, labels, 2, config, np.random.default_rng(s))[1][0, 0].item() for s in range(500)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.var(shares) == pytest.approx(0.25 / 1.4, abs=0.02)  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_several_labels_are_mixed_too() -> None:
    labels = torch.tensor([[True, True, False], [False, False, True]])
    _, targets = mix(constant([0.0, 1.0]), labels, 3, BOTH, np.random.default_rng(0))
    share = targets[0, 0]
    assert torch.allclose(
        targets, torch.stack([torch.stack([share, share, 1 - share]), torch.stack([1 - share, 1 - share, share])])
    )


def test_smoothing_of_mixed_targets_is_mixing_of_smoothed_ones() -> None:
    """The loss smooths: label smoothing stands in one place, mixed or not."""
    _, targets = mix(constant([0.0, 1.0]), torch.tensor([2, 0]), 4, BOTH, np.random.default_rng(0))
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    smoothed = 0.9 * targets + 0.1 / 4
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(logits, targets)
    assert torch.allclose(loss, -(smoothed * logits.log_softmax(-1)).sum(1).mean())
    assert torch.isfinite(torch.nn.CrossEntropyLoss(label_smoothing=0.1)(logits.half(), targets))


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1), st.integers(0, 10**6))
def test_boxes_lie_inside_and_hold_no_more_than_their_share(height: int, width: int, share: float, seed: int) -> None:
    top, left, tall, wide = _cutmix_box(height, width, share, np.random.default_rng(seed))
    assert 0 <= top <= top + tall <= height
    assert 0 <= left <= left + wide <= width
    assert tall * wide <= (1 - share) * height * width + 1e-6
