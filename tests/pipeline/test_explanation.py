"""What explanations are worth: taking away what a map marks costs the score more than taking away as much elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tubelet.backbones import Model, create_model, list_models
from tubelet.backbones.image.vit import Attention
from tubelet.pipeline.explanation.maps import ATTENTION, GRAD_CAM, Explainer, _as_given

ATTENDING = ("timesformer_tiny", "uniformer_tiny", "video_swin_tiny", "vivit_tiny", "xvit_tiny")
VARIANTS = [("timesformer_tiny", {"attention": "joint"}), ("timesformer_tiny", {"attention": "space"})]
VARIANTS += [("vivit_tiny", {"variant": name}) for name in ("joint", "factorised_attention", "factorised_heads")]
VARIANTS += [("xvit_tiny", {"head": "temporal"}), ("uniformer_tiny", {"attention": "split"})]
NETWORKS = [(name, {}) for name in list_models("*_tiny")] + VARIANTS
DELETED = 0.1  # of a clip


@dataclass
class Bars:
    """Clips (N, 3, 8, 48, 48) of a bar that moves over a still texture, its label (N,) 0 lying or 1 standing, and where
    the bar is (N, 8, 48, 48)."""

    clips: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor


def bars(count: int, seed: int) -> Bars:
    rng = np.random.default_rng(seed)
    clips = rng.normal(0, 0.5, (count, 3, 1, 12, 12)).repeat(8, 2).repeat(4, 3).repeat(4, 4).astype(np.float32)
    masks = np.zeros((count, 8, 48, 48), bool)
    for number in range(count):
        sides = (5, 15) if number % 2 == 0 else (15, 5)
        start, speed = rng.uniform(0, 33, 2), rng.uniform(-2, 2, 2)
        for frame in range(8):
            top, left = np.clip(start + speed * frame, 0, (48 - sides[0], 48 - sides[1])).astype(int)
            masks[number, frame, top : top + sides[0], left : left + sides[1]] = True
    clips[np.broadcast_to(masks[:, None], clips.shape)] = 2.0
    return Bars(torch.from_numpy(clips), torch.arange(count) % 2, torch.from_numpy(masks))


def trained(name: str, steps: int, rate: float, **numbers: object) -> Model:
    torch.manual_seed(0)
    model = create_model(name, num_classes=2, **numbers)
    seen = bars(256, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 10) * (1 - step / steps)
        some = (torch.arange(16) + 16 * step) % len(seen.labels)
        optimizer.zero_grad()
        F.cross_entropy(model(seen.clips[some]), seen.labels[some]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.inference_mode()
def score(model: Model, clips: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return model(clips).softmax(-1).gather(1, labels[:, None])[:, 0]


def without(clips: torch.Tensor, marked: torch.Tensor) -> torch.Tensor:
    return clips.masked_fill(marked[:, None], 0.0)


def most_marked(maps: torch.Tensor) -> torch.Tensor:
    """The DELETED share of each clip with the most evidence, (N, T, H, W) bool."""
    flat = maps.flatten(1)
    kept = flat.topk(int(DELETED * flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, kept, True).view_as(maps)


def elsewhere(marked: torch.Tensor, seed: int) -> torch.Tensor:
    """The same shapes, moved to a random place and time in each clip."""
    rng = np.random.default_rng(seed)
    shifts = rng.integers((0, 8, 8), (8, 41, 41), (len(marked), 3)).tolist()
    return torch.stack([torch.roll(one, shift, (0, 1, 2)) for one, shift in zip(marked, shifts, strict=True)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "rate", "numbers"),
    [
        ("r3d_tiny", 50, 3e-3, {}),
        ("timesformer_tiny", 50, 1e-3, {"depth": 2}),
        ("video_swin_tiny", 70, 1.5e-3, {"depths": (1, 1)}),
    ],
    ids=["r3d_tiny", "timesformer_tiny", "video_swin_tiny"],
)
def test_what_is_marked_matters_more_than_the_same_elsewhere(
    name: str, steps: int, rate: float, numbers: dict[str, object]
) -> None:
    model, unseen = trained(name, steps, rate, **numbers), bars(48, seed=2)
    maps = Explainer(model)(unseen.clips, unseen.labels)
    marked = most_marked(maps)
    whole = score(model, unseen.clips, unseen.labels)
    without_marked = score(model, without(unseen.clips, marked), unseen.labels)
    places = [elsewhere(marked, seed) for seed in range(4)]
    without_others = torch.stack([score(model, without(unseen.clips, each), unseen.labels) for each in places]).mean(0)
    on_bars = ((maps * unseen.masks).sum((1, 2, 3)) / maps.sum((1, 2, 3))).mean()
    figures = f"{whole.mean():.3f} whole, {without_marked.mean():.3f} without what is marked, "
    figures += f"{without_others.mean():.3f} without as much elsewhere; {on_bars:.2f} of the evidence on the bars"
    print(f"{name}: {figures}")
    assert whole.mean() > 0.8, "it has learnt nothing to explain"
    assert whole.mean() - without_marked.mean() > 4 * (whole.mean() - without_others.mean()).clamp(min=0.05), figures
    assert (without_marked < without_others).float().mean() > 0.8, figures
    assert on_bars > 2 * unseen.masks.float().mean(), figures


@pytest.mark.parametrize(("name", "numbers"), NETWORKS, ids=lambda value: value if isinstance(value, str) else "".join(
    str(each) for each in value.values()))  # fmt: skip
def test_every_network_has_maps_of_its_clips(name: str, numbers: dict[str, object]) -> None:
    torch.manual_seed(3)
    model = create_model(name, num_classes=3, **numbers).eval().requires_grad_(False)
    explainer = Explainer(model)
    assert explainer.method == (ATTENTION if name in ATTENDING else GRAD_CAM)
    clips = torch.randn(3, 3, 8, 48, 48)
    clips[2] = clips[1]
    before = model(clips)
    maps = explainer(clips, torch.tensor([0, 1, 2]))
    assert maps.shape == (3, 8, 48, 48)
    assert maps.isfinite().all()
    assert maps.min() >= 0
    assert (maps.amax((1, 2, 3)) > 0).sum() >= 2  # Grad-CAM finds nothing where all speaks against a class
    assert not torch.allclose(maps[1], maps[2], rtol=0.1, atol=0)  # another class of the same clip
    assert not maps.requires_grad
    assert torch.equal(model(clips), before)  # nothing of it stays in the network
    # Each clip is explained by itself.
    torch.testing.assert_close(explainer(clips[1:2], torch.tensor([1]))[0], maps[1], rtol=1e-2, atol=1e-2 * maps.max())


def test_maps_stand_where_their_pixels_are() -> None:
    """A network that sees only one patch of one tubelet: there the evidence lies, in space and in time."""
    torch.manual_seed(0)
    model = create_model("vivit_tiny", num_classes=8, variant="joint", depth=1).eval()
    clips = torch.zeros(1, 3, 8, 48, 48)
    clips[:, :, 4:6, 12:24, 36:48] = torch.randn(3, 2, 12, 12)
    nn.init.zeros_(model.patch_embed.proj.bias)
    maps = Explainer(model)(clips.expand(8, -1, -1, -1, -1), torch.arange(8))
    brightest = max(maps, key=torch.max)  # for some class it speaks
    time, row, column = torch.unravel_index(brightest.argmax(), brightest.shape)
    assert (int(time) // 2, int(row) // 12, int(column) // 12) == (2, 1, 3)


def test_attention_and_norms_held_fixed_are_linear() -> None:
    """Of a linear map without offset, gradient times input is the output: that is what shares it out without a rest."""
    torch.manual_seed(0)
    block = nn.ModuleDict({"norm": nn.LayerNorm(16), "attn": Attention(16, 4, qkv_bias=False)})
    nn.init.zeros_(block["attn"].proj.bias)
    x, weights = torch.randn(2, 9, 16, requires_grad=True), torch.randn(2, 9, 16)

    def shared_out() -> tuple[torch.Tensor, torch.Tensor]:
        y = (block["attn"](block["norm"](x)) * weights).sum()
        (slope,) = torch.autograd.grad(y, x)
        return y, (slope * x).sum()

    usual, rest = shared_out()
    assert not torch.isclose(usual, rest, rtol=1e-2)
    with _as_given(block):
        fixed, whole = shared_out()
    torch.testing.assert_close(fixed, usual)
    torch.testing.assert_close(whole, fixed)
    torch.testing.assert_close(shared_out()[1], rest)  # let go again
