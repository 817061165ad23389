"""What is X-ViT's own: the shift in time against a plain reading of the paper, its head, its publisher's names."""

import re
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tubelet.backbones import WeightsError, create_model, load_weights
from tubelet.backbones.lift.shift import shift_frames

State = dict[str, Tensor]
SMALL = {"frames": 4, "segments": 4, "size": 24, "pos_size": 24, "patch": 8, "dim": 24, "depth": 3, "heads": 3,
         "mlp_ratio": 2, "num_classes": 5}  # fmt: skip
_OFFICIAL = (
    (r"^(cls_token|pos_embed|temp_embed|patch_embed\..*|blocks\..*|norm\..*)$", r"base_model.\1"),
    (r"^temporal_head\.(cls_token)$", r"consensus.\1"),
    (r"^temporal_head\.blocks\.", "consensus.temporal_encoder."),
    (r"^temporal_head\.norm\.", "consensus.mlp_head.0."),
    (r"^temporal_head\.fc\.", "consensus.mlp_head.1."),
)


def randomised(**arguments: object) -> nn.Module:
    model = create_model("xvit", **{**SMALL, **arguments}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def image_vit() -> nn.Module:
    model = create_model("vit_b_16", **{k: SMALL[k] for k in SMALL.keys() - {"frames", "segments", "pos_size"}}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def run(model: nn.Module, *shape: int) -> Tensor:
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(x.to(model.head.weight.dtype))


def to_official(state: State) -> State:
    """The official repository's names: `new_fc` is the classifier of an average, and beside a temporal head unused."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in _OFFICIAL:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    temporal = any(key.startswith("consensus.") for key in renamed)
    for part in ("weight", "bias"):
        head = renamed.pop(f"head.{part}")
        renamed[f"new_fc.{part}"] = torch.zeros_like(head) if temporal else head
        if temporal:
            renamed[f"consensus.mlp_head.4.{part}"] = head
    return renamed


# What it computes


def shifted_by_loops(x: Tensor, fold: int, segment: int) -> Tensor:
    y = torch.zeros_like(x)
    frames, channels = x.shape[1], x.shape[-1]
    for t in range(frames):
        for c in range(channels):
            source = t + 1 if c < fold else t - 1 if c < 2 * fold else t
            if 0 <= source < frames and source // segment == t // segment:
                y[:, t, :, c] = x[:, source, :, c]
    return y


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 2),
    frames=st.integers(1, 9),
    segment=st.integers(1, 10),
    channels=st.integers(2, 9),
    data=st.data(),
)
def test_the_shift_is_that_of_the_paper(batch: int, frames: int, segment: int, channels: int, data) -> None:
    fold = data.draw(st.integers(1, channels // 2))
    x = torch.randn(batch, frames, 2, channels)
    assert torch.equal(shift_frames(x, fold, segment), shifted_by_loops(x, fold, segment))


def linear(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(x: Tensor, state: Mapping[str, Tensor], name: str, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def block(x: Tensor, state: Mapping[str, Tensor], name: str, heads: int, eps: float, shift=lambda x: x) -> Tensor:
    """A pre-norm block over (B, T, N, C), head by head."""
    q, k, v = linear(norm(x, state, f"{name}.norm1", eps), state, f"{name}.attn.qkv").chunk(3, dim=-1)
    each = []
    for qh, kh, vh in zip(*(part.chunk(heads, dim=-1) for part in (q, shift(k), shift(v))), strict=True):
        scores = torch.einsum("btnc,btmc->btnm", qh, kh) / qh.shape[-1] ** 0.5
        each.append(torch.einsum("btnm,btmc->btnc", scores.softmax(-1), vh))
    x = x + linear(torch.cat(each, dim=-1), state, f"{name}.attn.proj")
    hidden = F.gelu(linear(norm(x, state, f"{name}.norm2", eps), state, f"{name}.mlp.fc1"))
    return x + linear(hidden, state, f"{name}.mlp.fc2")


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (4, 24, 24)),
        ({"frames": 6, "segments": 3, "shift_div": 4}, (6, 24, 24)),
        ({"shift_div": 3, "shift_blocks": [1, 2, 14], "head_depth": 2, "head_heads": 2, "head_dim": 10}, (4, 24, 24)),
        ({"head": "average", "qkv_bias": False}, (4, 32, 40)),
        ({"pos_size": 32, "frames": 5}, (5, 24, 24)),
    ],
)
def test_it_computes_what_the_paper_says(arguments: dict, shape: tuple[int, int, int]) -> None:
    model = randomised(**arguments).double()
    config, state = {**SMALL, **model.config}, model.state_dict()
    clip = torch.randn(2, 3, *shape, dtype=torch.float64)
    frames, height, width = shape

    x = F.conv2d(clip.transpose(1, 2).flatten(0, 1), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"],
                 stride=8).flatten(2).transpose(1, 2)  # fmt: skip
    side, size = config["pos_size"] // 8, config["pos_size"]
    grid = state["pos_embed"][:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if (height, width) != (size, size):
        grid = F.interpolate(grid, scale_factor=(height / size, width / size), mode="bicubic")
    cls = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(x), -1, -1)
    x = torch.cat([cls, x + grid.flatten(2).transpose(1, 2)], dim=1)
    x = x.view(2, frames, *x.shape[1:]) + state["temp_embed"]
    fold = 24 // config["shift_div"]
    for i in range(3):
        moved = config["shift_blocks"] is None or i in config["shift_blocks"]
        shift = (lambda part: shifted_by_loops(part, fold, config["segments"])) if moved else (lambda part: part)
        x = block(x, state, f"blocks.{i}", config["heads"], 1e-6, shift)
    x = norm(x, state, "norm", 1e-6)
    torch.testing.assert_close(model.forward_features(clip), x, rtol=0, atol=1e-10)
    embedding = x[:, :, 0].mean(1)
    if config["head"] == "temporal":
        tokens = torch.cat([state["temporal_head.cls_token"].expand(2, -1, -1), x[:, :, 0]], dim=1).unsqueeze(1)
        for i in range(config["head_depth"]):
            tokens = block(tokens, state, f"temporal_head.blocks.{i}", config["head_heads"] or 3, 1e-5)
        cls = norm(tokens[:, 0, 0], state, "temporal_head.norm", 1e-5)
        embedding = F.gelu(linear(cls, state, "temporal_head.fc"))
    torch.testing.assert_close(model(clip), linear(embedding, state, "head"), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("height", "grid"), [(24, 3), (25, 3), (976, 122), (1000, 125), (9, 1)])
def test_positions_fit_every_size(height: int, grid: int) -> None:
    """976 pixels: where the published scale, 976 / 224, is rounded to one row too few."""
    model = randomised(pos_size=224, patch=16 if height > 100 else 8)
    assert model._positions(height, 24).shape[1] == 1 + (height // model.patch) * (24 // model.patch)
    assert height // 8 == grid


def test_time_begins_anew_with_the_embedding() -> None:
    """Without a shift, and with one time embedding for both halves, a clip twice shown is the clip."""
    model = randomised(head="average", segments=4)
    x = torch.randn(1, 3, 4, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(model(torch.cat([x, x], dim=2)), model(x), rtol=1e-4, atol=1e-5)
    for frames in (1, 3, 5, 6, 9):
        assert run(model, frames, 24, 24).shape == (2, 5)


def test_the_order_of_frames_is_seen_only_through_shift_and_time() -> None:
    x = torch.randn(1, 3, 4, 24, 24)
    for arguments, blind in (({"shift_blocks": []}, True), ({}, False), ({"segments": 1}, True)):
        model = randomised(**arguments)
        model.temp_embed.data.zero_()
        with torch.no_grad():
            assert torch.allclose(model(x), model(x.flip(2)), atol=1e-5) == blind


def test_stochastic_depth_drops_frames_and_dropout_spares_evaluation() -> None:
    model = create_model("xvit", **{**SMALL, "frames": 64, "drop_path": 0.9, "head_dropout": 0.9}).train()
    assert [block.drop_path.rate for block in model.blocks] == [0.0, 0.45, 0.9]
    last = model.blocks[-1]
    nn.init.zeros_(last.mlp.fc2.weight)
    nn.init.normal_(last.attn.proj.weight)
    x = torch.randn(1, 64, 10, 24)
    kept = (last(x) != x).flatten(2).any(-1)
    assert 0 < kept.sum() < 32
    model.eval()
    assert torch.equal(run(model, 64, 24, 24), run(model, 64, 24, 24))


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"head": "mean"}, "head must be 'temporal' or 'average', got 'mean'"),
        ({"segments": 0}, "segments must be at least 1"),
        ({"shift_div": 1}, "shift_div must be at least 2"),
        ({"shift_blocks": [-1]}, "shift_blocks must be numbers of blocks"),
        ({"head_heads": 5}, "does not divide into 5 heads"),
    ],
)
def test_values_that_make_no_network_are_named(arguments: dict, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        create_model("xvit", **{**SMALL, **arguments})


# Weights


@pytest.mark.parametrize("head", ["temporal", "average"])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model_state": {f"module.{k}": v for k, v in s.items()}}])
def test_the_official_names_give_equal_logits(head: str, wrap) -> None:
    theirs, ours = randomised(head=head), randomised(head=head)
    report = load_weights(ours, wrap(to_official(theirs.state_dict())))
    assert len(report.loaded) == report.total
    assert not report.initialised
    assert set(report.dropped) == ({"new_fc.weight", "new_fc.bias"} if head == "temporal" else set())
    assert torch.equal(run(ours, 4, 24, 24), run(theirs, 4, 24, 24))
    assert load_weights(ours, theirs.state_dict()).layout == "X-ViT"


def test_a_time_embedding_of_one_segment_serves_every_segment() -> None:
    """The released network of 16 frames has 8 entries: its embedding begins anew at frame 8, and so does ours."""
    theirs, ours = randomised(frames=2, segments=2), randomised(frames=4, segments=2)
    report = load_weights(ours, to_official(theirs.state_dict()))
    assert report.resized == {"temp_embed": "2 -> 4 frames, begun anew every 2 frames as published"}
    assert torch.equal(run(ours, 4, 24, 24), run(theirs, 4, 24, 24))
    odd = randomised(frames=3, segments=2)
    assert "nearest" in load_weights(odd, theirs.state_dict()).resized["temp_embed"]
    assert torch.equal(odd.temp_embed, theirs.temp_embed[:, [0, 0, 1]])


def test_without_its_shift_a_lifted_vit_sees_a_still_video_as_its_image() -> None:
    vit, video = image_vit(), create_model("xvit", **{**SMALL, "head": "average", "shift_blocks": []}).eval()
    report = load_weights(video, vit.state_dict())
    image = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        still = video(image.unsqueeze(2).expand(-1, -1, 4, -1, -1))
        torch.testing.assert_close(still, vit(image), rtol=1e-4, atol=1e-5)
    assert report.initialised == ["temp_embed"]


def test_image_weights_start_the_frames_network_and_the_head_is_new() -> None:
    vit, video = image_vit(), randomised(pos_size=40)
    fresh = video.head.weight.clone()
    report = load_weights(video, vit.state_dict())
    assert torch.equal(video.blocks[2].attn.qkv.weight, vit.blocks[2].attn.qkv.weight)
    assert torch.equal(video.head.weight, fresh)
    assert "bicubic" in report.resized["pos_embed"]
    assert "temporal head" in report.dropped["head.weight"]
    expected = {key for key in video.state_dict() if key.startswith(("temporal_head.", "head.", "temp_embed"))}
    assert set(report.initialised) == expected
    assert len(report.loaded) + len(expected) == report.total


def test_weights_of_another_architecture_are_named() -> None:
    with pytest.raises(WeightsError, match="head average, this model has temporal"):
        load_weights(randomised(), randomised(head="average").state_dict())
    with pytest.raises(WeightsError, match="head_depth 2, this model has 1"):
        load_weights(randomised(), to_official(randomised(head_depth=2).state_dict()))
    with pytest.raises(WeightsError, match="these are weights of X-ViT"):
        load_weights(image_vit(), randomised().state_dict())
    with pytest.raises(WeightsError, match=r"these are weights of X-ViT \(official\)"):
        load_weights(create_model("timesformer_tiny"), to_official(randomised().state_dict()))
