"""What is ViViT's own: its four models, tubelets, its publishers' names, and how it starts from an image network."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tubelet.backbones import WeightsError, create_model, load_weights
from tubelet.backbones.lift.resize import linear_grid
from tubelet.backbones.lift.tubelets import TubeletEmbed
from tubelet.backbones.vivit_weights import _source_grid

State = dict[str, Tensor]
SMALL = {"frames": 6, "size": 24, "tubelet": (2, 8, 8), "dim": 24, "depth": 2, "temporal_depth": 1, "heads": 4,
         "mlp_ratio": 2, "num_classes": 5}  # fmt: skip
VARIANTS = ("joint", "factorised_encoder", "factorised_attention", "factorised_heads")
IMAGE = {"patch": 8, "dim": 24, "depth": 2, "heads": 4, "mlp_ratio": 2, "num_classes": 7, "size": 24}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def randomised(name: str = "vivit_b", **arguments: object) -> nn.Module:
    model = create_model(name, **({**SMALL, **arguments} if name == "vivit_b" else {**IMAGE, **arguments})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def run(model: nn.Module, *shape: int) -> Tensor:
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(x.to(model.head.weight.dtype))


# Published names


def to_scenic(state: State, heads: int = 4) -> State:
    """The loader's renamings the other way round: a flax tree of Scenic's, in flax's layouts."""
    three = any(".temporal_attn." in key for key in state)
    two = "temporal_pos_embed" in state
    names = {"norm1": "LayerNorm_space" if three else "LayerNorm_0", "temporal_norm1": "LayerNorm_time",
             "norm2": "LayerNorm_mlp" if three else "LayerNorm_1", "mlp": "MlpBlock" if three else "MlpBlock_0",
             "attn": f"MultiHeadDotProductAttention_{'space' if three else '0'}", "fc1": "Dense_0", "fc2": "Dense_1",
             "temporal_attn": "MultiHeadDotProductAttention_time"}  # fmt: skip
    tree = {}
    for key, value in state.items():
        over_time, place = key.startswith("temporal_"), key.removeprefix("temporal_").split(".")
        encoder = ("TemporalTransformer" if over_time else "SpatialTransformer") if two else "Transformer"
        turned = value.T if value.ndim == 2 else value
        leaf = {"weight": "scale" if "norm" in key else "kernel", "bias": "bias"}.get(place[-1])
        if place[0] == "cls_token":
            tree[f"cls_{encoder}" if two else "cls"] = value
        elif place[0] == "pos_embed":
            tree[f"{encoder}/posembed_input/pos_embedding"] = value
        elif place[0] == "norm":
            tree[f"{encoder}/encoder_norm/{leaf}"] = value
        elif place[0] == "patch_embed":
            tree[f"embedding/{leaf}"] = value.permute(2, 3, 4, 1, 0) if value.ndim == 5 else value
        elif place[0] == "head":
            tree[f"output_projection/{leaf}"] = turned
        else:
            block = f"{encoder}/encoderblock_{place[1]}/{names[place[2]]}"
            if place[3] == "qkv":
                for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    split = part.unflatten(0, (heads, -1))  # (heads, out of each, in)
                    tree[f"{block}/{name}/{leaf}"] = split.permute(2, 0, 1) if value.ndim == 2 else split
            elif place[3] == "proj":
                tree[f"{block}/out/{leaf}"] = turned.unflatten(0, (heads, -1)) if value.ndim == 2 else value
            else:
                tree[f"{block}/{names[place[3]]}/{leaf}" if len(place) > 4 else f"{block}/{leaf}"] = (
                    value.T if value.ndim == 2 else value
                )
    return tree


def to_checkpoint(state: State) -> State:
    """The same inside a whole checkpoint, optimiser included."""
    tree = to_scenic(state)
    moments = {f"optimizer/state/param_states/{key}/momentum": torch.zeros(3) for key in tree}
    return {f"optimizer/target/{key}": v for key, v in tree.items()} | moments | {"global_step": torch.tensor(7)}


def to_params(state: State) -> State:
    return {f"params/{key}": v for key, v in to_scenic(state).items()} | {
        "opt_state/0/trace/embedding/kernel": torch.zeros(3)
    }


_HUGGING_FACE = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"\.norm1", ".layernorm_before"),
    (r"\.norm2", ".layernorm_after"),
    (r"^norm\.", "layernorm."),
)
_IN_MEMORY = ((r"^blocks\.", "layers."), (r"\.attn\.(query|key|value)", r".attention.\1"),
              (r"\.attn\.proj", ".attention.o_proj"))  # fmt: skip
_SAVED = ((r"^blocks\.", "encoder.layer."), (r"\.attn\.(query|key|value)", r".attention.attention.\1"),
          (r"\.attn\.proj", ".attention.output.dense"), (r"\.mlp\.fc1", ".intermediate.dense"),
          (r"\.mlp\.fc2", ".output.dense"))  # fmt: skip


def to_hugging_face(state: State, rules: tuple = _SAVED, prefix: str = "vivit.") -> State:
    renamed = {}
    for key, value in state.items():
        parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
        for name, part in parts if ".qkv." in key else [("", value)]:
            new = key.replace("qkv", name)
            for pattern, replacement in (*_HUGGING_FACE, *rules):
                new = re.sub(pattern, replacement, new)
            if rules is _IN_MEMORY:
                new = re.sub(r"\.(q)uery|\.(k)ey|\.(v)alue", lambda m: f".{next(filter(None, m.groups()))}_proj", new)
            renamed[new.replace("head.", "classifier.") if new.startswith("head.") else prefix + new] = (
                value if not name else part
            )
    return renamed


@pytest.mark.parametrize("publish", [dict, to_scenic, to_checkpoint, to_params])
@every_variant
def test_layouts_give_equal_logits(publish, variant: str) -> None:
    theirs, ours = randomised(variant=variant), randomised(variant=variant)
    report = load_weights(ours, publish(theirs.state_dict()))
    assert len(report.loaded) == report.total
    assert not any((report.dropped, report.initialised, report.resized, report.inflated, report.copied))
    assert torch.equal(run(ours, 6, 24, 24), run(theirs, 6, 24, 24))


@pytest.mark.parametrize(("rules", "prefix"), [(_SAVED, "vivit."), (_IN_MEMORY, "vivit."), (_SAVED, "")])
def test_hugging_face_names_both_old_and_new(rules: tuple, prefix: str) -> None:
    theirs, ours = randomised(variant="joint"), randomised(variant="joint")
    state = to_hugging_face(theirs.state_dict(), rules, prefix)
    assert f"{prefix}layers.0.attention.q_proj.weight" in state or rules is _SAVED
    report = load_weights(ours, {**state, f"{prefix}pooler.dense.weight": torch.zeros(24, 24)})
    assert report.layout == "ViViT (Hugging Face)"
    assert list(report.dropped) == ["pooler.dense.weight"]
    assert torch.equal(run(ours, 6, 24, 24), run(theirs, 6, 24, 24))


@pytest.mark.parametrize("publish", [to_hugging_face, lambda state: to_scenic(state, heads=12)])
def test_published_files_of_full_size_fit(publish) -> None:
    with torch.device("meta"):
        model = create_model("vivit_b", variant="joint")
    report = load_weights(model, publish(model.state_dict()))
    assert len(report.loaded) == report.total == 152
    assert not any((report.dropped, report.initialised, report.resized))


# The four models, computed one token at a time


def attention_of(query: Tensor, tokens: Tensor, attn: nn.Module, heads: slice) -> Tensor:
    """What each of `heads` makes of one query token and a sequence: (heads, d)."""
    q, k, v = (part.unflatten(-1, (4, -1)) for part in nn.functional.linear(
        torch.cat([query[None], tokens]), attn.qkv.weight, attn.qkv.bias).chunk(3, dim=-1))  # fmt: skip
    out = []
    for head in range(4)[heads]:
        scores = (k[1:, head] @ q[0, head]) / math.sqrt(q.shape[-1])
        out.append(scores.softmax(0) @ v[1:, head])
    return torch.stack(out)


def attend(x: Tensor, attn: nn.Module, over: str) -> Tensor:
    """Self-attention of (T, N, C) over "time", "space", "both", or "heads": half of them over each."""
    y = torch.empty_like(x)
    for t in range(x.shape[0]):
        for n in range(x.shape[1]):
            sees = {"time": x[:, n], "space": x[t], "both": x.flatten(0, 1)}
            if over == "heads":
                halves = (("time", slice(0, 2)), ("space", slice(2, 4)))
                made = torch.cat([attention_of(x[t, n], sees[axis], attn, half) for axis, half in halves])
            else:
                made = attention_of(x[t, n], sees[over], attn, slice(0, 4))
            y[t, n] = attn.proj(made.flatten())
    return y


def reference(model: nn.Module, clip: Tensor, variant: str, order: str) -> Tensor:
    """Logits of one clip (3, T, H, W) by the formulas of section 3.3."""
    kernel = model.patch_embed.proj.weight
    x = nn.functional.conv3d(clip[None], kernel, model.patch_embed.proj.bias, stride=kernel.shape[2:])[0]
    x = x.flatten(2).permute(1, 2, 0)  # (T, N, C)
    times, places = x.shape[:2]
    if variant in ("joint", "factorised_encoder"):
        groups = [x.flatten(0, 1)] if variant == "joint" else list(x)
        made = torch.stack([encode(one, model, "") for one in groups])
        return model.head(made[0] if variant == "joint" else encode(made, model, "temporal_"))
    x = x + model.pos_embed[0].view(times, places, -1)
    for block in model.blocks:
        if variant == "factorised_heads":
            x = x + attend(block.norm1(x), block.attn, "heads")
        for axis in order.split("_") if variant == "factorised_attention" else ():
            norm, attn = (block.temporal_norm1, block.temporal_attn) if axis == "time" else (block.norm1, block.attn)
            x = x + attend(norm(x), attn, axis)
        x = x + block.mlp(block.norm2(x))
    return model.head(model.norm(x).mean((0, 1)))


def encode(tokens: Tensor, model: nn.Module, over: str) -> Tensor:
    """A whole ViT on a sequence (N, C): its class token, or the mean of its tokens."""
    cls, pos = getattr(model, f"{over}cls_token"), getattr(model, f"{over}pos_embed")[0]
    x = ((tokens if cls is None else torch.cat([cls[0], tokens])) + pos)[None]
    for block in getattr(model, f"{over}blocks"):
        x = x + attend(block.norm1(x), block.attn, "both")
        x = x + block.mlp(block.norm2(x))
    x = getattr(model, f"{over}norm")(x)[0]
    return x.mean(0) if cls is None else x[0]


@pytest.mark.parametrize(
    ("variant", "pool", "order"),
    [("joint", "token", ""), ("joint", "mean", ""), ("factorised_encoder", "token", ""),
     ("factorised_encoder", "mean", ""), ("factorised_attention", "mean", "time_space"),
     ("factorised_attention", "mean", "space_time"), ("factorised_heads", "mean", "")],
)  # fmt: skip
def test_the_models_are_those_of_the_paper(variant: str, pool: str, order: str) -> None:
    arguments = {"attention_order": order} if order else {}
    model = randomised(variant=variant, pool=pool, size=8, width=24, **arguments).double()
    clip = torch.randn(3, 7, 9, 25, dtype=torch.float64)  # the last of each axis is of no whole tubelet
    with torch.no_grad():
        torch.testing.assert_close(model(clip[None])[0], reference(model, clip, variant, order))


def test_without_temporal_blocks_the_times_are_averaged() -> None:
    model = randomised(temporal_depth=0)
    clip = torch.randn(2, 3, 6, 24, 24)
    with torch.no_grad():
        alone = torch.stack([model.embed(part) for part in clip.split(2, dim=2)])
        torch.testing.assert_close(model.embed(clip), alone.mean(0), rtol=1e-4, atol=1e-5)
    assert not [key for key in model.state_dict() if key.startswith("temporal_")]


def test_every_variant_but_the_average_sees_the_order_of_time() -> None:
    x = torch.randn(1, 3, 6, 24, 24)
    swapped = x.unflatten(2, (3, 2)).flip(2).flatten(2, 3)
    for arguments in (*({"variant": variant} for variant in VARIANTS), {"temporal_depth": 0}):
        model = randomised(**arguments)
        with torch.no_grad():
            assert torch.allclose(model(x), model(swapped), atol=1e-4) == ("temporal_depth" in arguments)


# Tubelets


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(0, 9)] * 3), st.sampled_from(["centre", "mean"]))
def test_a_still_video_has_the_tokens_of_its_image(tubelet: tuple, extra: tuple, how: str) -> None:
    patches = nn.Conv2d(3, 5, tubelet[1:], stride=tubelet[1:]).double()
    embed = TubeletEmbed(patches, tubelet[0], how)
    times, height, width = (side + more for side, more in zip(tubelet, extra, strict=True))
    image = torch.randn(2, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        tokens = embed(image.unsqueeze(2).expand(-1, -1, times, -1, -1))
        expected = patches(image).flatten(2).transpose(1, 2)
    assert tokens.shape[1] == times // tubelet[0]
    torch.testing.assert_close(tokens, expected.unsqueeze(1).expand_as(tokens))


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(0, 9)] * 3))
def test_tubelets_are_a_convolution(tubelet: tuple, extra: tuple) -> None:
    embed = TubeletEmbed(nn.Conv2d(3, 5, tubelet[1:], stride=tubelet[1:]).double(), tubelet[0])
    nn.init.normal_(embed.proj.weight)
    clip = torch.randn(2, 3, *(side + more for side, more in zip(tubelet, extra, strict=True)), dtype=torch.float64)
    with torch.no_grad():
        expected = nn.functional.conv3d(clip, embed.proj.weight, embed.proj.bias, stride=tubelet)
        torch.testing.assert_close(embed(clip), expected.flatten(3).permute(0, 2, 3, 1))


def test_only_patches_side_by_side_become_tubelets() -> None:
    for conv in (nn.Conv2d(3, 5, 4, stride=2), nn.Conv2d(3, 5, 2, 2, padding=1), nn.Conv2d(6, 6, 2, 2, groups=2)):
        with pytest.raises(ValueError, match="cannot become tubelets"):
            TubeletEmbed(conv, 2)


# From an image network


@pytest.mark.parametrize("inflation", ["centre", "mean"])
@every_variant
def test_an_image_vit_starts_each_variant(variant: str, inflation: str) -> None:
    vit, video = randomised("vit_b_16"), randomised(variant=variant, inflation=inflation)
    report = load_weights(video, vit.state_dict())
    kernel, patch = video.patch_embed.proj.weight.data, vit.patch_embed.proj.weight.data
    share = torch.tensor([0.0, 1.0] if inflation == "centre" else [0.5, 0.5])
    assert torch.equal(kernel, patch.unsqueeze(2) * share.view(2, 1, 1))
    assert "frame 1 of 2" in report.inflated["patch_embed.proj.weight"] or inflation == "mean"
    places = vit.pos_embed.data[:, 1:]
    assert torch.equal(video.pos_embed.data[:, video.prefix :], places.repeat(1, video.pos_embed.shape[1] // 9, 1))
    assert ("pos_embed" in report.inflated) == (variant != "factorised_encoder")
    assert ("cls_token" in report.dropped) == (video.cls_token is None)
    assert torch.equal(video.blocks[1].attn.qkv.weight, vit.blocks[1].attn.qkv.weight)
    new = {"head.weight", "head.bias"}
    if variant == "factorised_encoder":
        new |= {key for key in video.state_dict() if key.startswith("temporal_")}
        assert "temporal_blocks.0.norm1.weight" in new
    elif variant == "factorised_attention":
        new |= {key for key in video.state_dict() if ".temporal_attn.proj." in key}
        assert not video.blocks[1].temporal_attn.proj.weight.any()
        assert report.copied["blocks.0.temporal_attn.qkv.bias"] == "from blocks.0.attn.qkv.bias"
        assert "temporal_attn.proj starts at zero" in str(report)
    assert set(report.initialised) == new
    assert "approximate='none'" in str(report)


@pytest.mark.parametrize("inflation", ["centre", "mean"])
@pytest.mark.parametrize("variant", ["joint", "factorised_attention"])
def test_a_still_video_is_seen_as_its_image_where_tokens_are_averaged(variant: str, inflation: str) -> None:
    """Attention over equal tokens averages to one of them. (A class token would weigh less among more of them.)"""
    vit = randomised("vit_b_16", class_token=False, pool="mean", num_classes=5)
    video = randomised(variant=variant, pool="mean", inflation=inflation, approximate="none")
    state = {"pos_embed": torch.cat([torch.zeros(1, 1, 24), vit.pos_embed.data], dim=1)}
    for weights in (vit.state_dict(), vit.state_dict() | state):
        load_weights(video, weights)
        image = torch.randn(2, 3, 24, 24)
        with torch.no_grad():
            still = video(image.unsqueeze(2).expand(-1, -1, 6, -1, -1))
            torch.testing.assert_close(still, vit(image), rtol=1e-4, atol=1e-5)


def test_the_spatial_encoder_sees_each_time_as_the_image_network_does() -> None:
    vit, video = randomised("vit_b_16"), randomised(temporal_depth=0, approximate="none")
    load_weights(video, vit.state_dict())
    image = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(
            video.embed(image.unsqueeze(2).expand(-1, -1, 6, -1, -1)), vit.embed(image), rtol=1e-4, atol=1e-5
        )


def test_image_positions_of_another_size_are_resized_then_repeated() -> None:
    vit = randomised("vit_b_16", size=40)
    for variant, times in (("joint", 3), ("factorised_encoder", 1)):
        video = randomised(variant=variant)
        report = load_weights(video, vit.state_dict())
        assert "5 x 5 -> 3 x 3" in report.resized["pos_embed"]
        grid = vit.pos_embed.data[:, 1:].unflatten(1, (5, 5))[:, ::2, ::2]  # ends on ends
        torch.testing.assert_close(video.pos_embed.data[:, 1:], grid.flatten(1, 2).repeat(1, times, 1))
        assert torch.equal(video.pos_embed.data[:, :1], vit.pos_embed.data[:, :1])


def test_a_scenic_image_vit_is_told_from_a_vivit() -> None:
    vit = randomised("vit_b_16")
    flax = to_scenic({key: value for key, value in vit.state_dict().items() if not key.startswith("patch_embed")})
    proj = vit.patch_embed.proj
    flax |= {"embedding/kernel": proj.weight.data.permute(2, 3, 1, 0), "embedding/bias": proj.bias.data}
    video, again = randomised(variant="joint"), randomised(variant="joint")
    report = load_weights(video, flax)
    load_weights(again, vit.state_dict())
    assert "patch_embed.proj.weight" in report.inflated
    for key in ("patch_embed.proj.weight", "pos_embed", "blocks.1.attn.qkv.weight", "blocks.0.attn.proj.weight"):
        assert torch.equal(video.state_dict()[key], again.state_dict()[key])


# Other sizes


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3), st.integers(0, 1))
def test_positions_are_resized_linearly_with_ends_on_ends(sides: list, prefix: int) -> None:
    before, after = zip(*sides, strict=True)
    pos = torch.randn(1, prefix + math.prod(before), 2, dtype=torch.float64)
    resized = linear_grid(pos, before, after, prefix)
    assert torch.equal(resized[:, :prefix], pos[:, :prefix])
    expected = pos[0, prefix:].view(*before, 2)
    for axis, (old, new) in enumerate(sides):
        entries = []
        for i in range(new):
            at = i * (old - 1) / (new - 1) if new > 1 else 0.0
            low = min(math.floor(at + 1e-9), old - 1)
            high, share = min(low + 1, old - 1), at - low
            entries.append(expected.select(axis, low) * (1 - share) + expected.select(axis, high) * share)
        expected = torch.stack(entries, dim=axis)
    torch.testing.assert_close(resized[0, prefix:], expected.flatten(0, -2))


def test_the_grid_of_published_positions_is_found() -> None:
    published = 16 * 14 * 14
    for frames, size in ((16, 14), (8, 14), (32, 14), (16, 20), (16, 7), (8, 20), (4, 14), (5, 9)):
        source = _source_grid(published, (frames, size, size))
        assert source == (16, 14, 14) or (frames, size) == (16, 14)
    assert _source_grid(3 * 4 * 4, (3, 5, 5)) == (3, 4, 4)
    assert _source_grid(3 * 4 * 5, (7, 4, 5)) == (3, 4, 5)
    assert _source_grid(7 * 11, (3, 5, 5)) is None
    assert _source_grid(9, (5, 2)) == (3, 3)
    assert _source_grid(10, (5, 5)) is None
    assert _source_grid(4, (8,)) == (4,)
    assert _source_grid(4 * 4 * 4, (4, 6, 6)) == (4, 4, 4)  # not the 16 times that published networks have
    assert _source_grid(16 * 7 * 7, (5, 9, 9)) == (16, 7, 7)


def test_positions_are_resized_at_load_as_exactly_as_scenic_does() -> None:
    theirs, ours = randomised(), randomised(size=40, frames=10)
    load_weights(ours, theirs.state_dict())
    for name, before, after, prefix in (("pos_embed", (3, 3), (5, 5), 1), ("temporal_pos_embed", (3,), (5,), 1)):
        exact = linear_grid(theirs.state_dict()[name].double(), before, after, prefix)
        assert torch.equal(ours.state_dict()[name], exact.float())


@every_variant
def test_a_checkpoint_of_another_size_is_resized_as_forward_does(variant: str) -> None:
    theirs, ours = randomised(variant=variant), randomised(variant=variant, frames=10, size=24)
    report = load_weights(ours, theirs.state_dict())
    assert list(report.resized) == ["temporal_pos_embed" if variant == "factorised_encoder" else "pos_embed"]
    torch.testing.assert_close(run(ours, 10, 24, 24), run(theirs, 10, 24, 24))
    larger = randomised(variant=variant, size=32, width=48)
    report = load_weights(larger, theirs.state_dict())
    assert "3 x 3 -> " in report.resized["pos_embed"]
    torch.testing.assert_close(run(larger, 6, 32, 48), run(theirs, 6, 32, 48))
    assert run(theirs, 3, 41, 9).shape == (2, 5)


# What is refused, and how a fresh model starts


@pytest.mark.parametrize(
    ("theirs", "ours", "cause"),
    [
        ({}, {"variant": "joint"}, "variant factorised_encoder, this model has joint or factorised_heads"),
        ({"temporal_depth": 3}, {}, "temporal_depth 3, this model has 1"),
        ({"variant": "factorised_attention"}, {"variant": "factorised_heads"}, "variant factorised_attention, this"),
        ({"variant": "joint", "pool": "mean"}, {"variant": "joint"}, "pool mean, this model has token"),
        ({"tubelet": (3, 8, 8)}, {}, r"tubelet \(3, 8, 8\), this model has \(2, 8, 8\)"),
        ({"dim": 48}, {}, "dim 48, this model has 24"),
        ({"depth": 3}, {}, "depth 3, this model has 2"),
    ],
)
def test_another_architecture_is_named(theirs: dict, ours: dict, cause: str) -> None:
    for publish in (dict, to_scenic):
        with pytest.raises(WeightsError, match=cause):
            load_weights(randomised(**ours), publish(randomised(**theirs).state_dict()))


def test_weights_of_other_networks_are_named() -> None:
    timesformer = create_model("timesformer", frames=3, **{**IMAGE, "heads": 3})
    with pytest.raises(WeightsError, match="these are weights of TimeSformer"):
        load_weights(randomised(), timesformer.state_dict())
    with pytest.raises(WeightsError, match="these are weights of ViViT"):
        load_weights(timesformer, randomised().state_dict())
    with pytest.raises(WeightsError, match=r"these are weights of ViViT \(Scenic\)"):
        load_weights(timesformer, to_scenic(randomised().state_dict()))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"variant": "model 2"}, "variant must be 'joint' or .* got 'model 2'"),
        ({"variant": "factorised_heads", "pool": "token"}, "pool must be 'mean', got 'token'"),
        ({"pool": "max"}, "pool must be 'token' or 'mean', got 'max'"),
        ({"attention_order": "both"}, "attention_order must be 'time_space' or 'space_time', got 'both'"),
        ({"variant": "factorised_heads", "heads": 3}, "heads must be even .* got 3"),
        ({"temporal_depth": -1}, "temporal_depth must be at least 0, got -1"),
        ({"tubelet": (2, 8)}, r"tubelet must be .* got \(2, 8\)"),
        ({"frames": 1}, r"1 frames of 24 x 24 hold no tubelet of \(2, 8, 8\)"),
        ({"width": 4}, "6 frames of 24 x 4 hold no tubelet"),
        ({"inflation": "last"}, "inflation must be .* got 'last'"),
        ({"approximate": "sigmoid"}, "must be 'none' or 'tanh', got 'sigmoid'"),
    ],
)
def test_values_that_make_no_network_are_named(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        create_model("vivit_b", **(SMALL | arguments))


def test_initialisation() -> None:
    model = create_model("vivit_b", **(SMALL | {"variant": "factorised_attention", "dim": 96, "inflation": "centre"}))
    block = model.blocks[0]
    assert not block.temporal_attn.proj.weight.any()
    assert not torch.equal(block.temporal_attn.qkv.weight, block.attn.qkv.weight)
    assert abs(block.temporal_attn.qkv.weight.std().item() - 0.02) < 2e-3
    assert abs(model.pos_embed.std().item() - 0.02) < 4e-3
    assert not model.patch_embed.proj.weight[:, :, 0].any()
    assert model.patch_embed.proj.weight[:, :, 1].all()


def test_drop_path_drops_a_clip_whole() -> None:
    model = create_model("vivit_b", **(SMALL | {"variant": "factorised_attention", "drop_path": 0.9})).train()
    assert [block.drop_path.rate for block in model.blocks] == [0.0, 0.9]
    kept = model.blocks[1].drop_path(torch.ones(64, 3, 9, 24)).flatten(1)
    assert torch.equal(kept.any(1), kept.all(1))
    assert 0 < kept.any(1).sum() < 32
