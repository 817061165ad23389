"""The face that every model of the registry has, and the sizes the papers print."""

import copy
import io
import json
import pickle

import pytest
import torch
from torch import nn

from tubelet.backbones import (
    ClipSpec,
    Entry,
    UnknownModel,
    count_cost,
    create_model,
    list_models,
    model_entry,
)

EVERY = [*list_models(), *list_models(kind="image")]
TINY = list_models("*_tiny")
SMALL_IMAGE = {"size": 32, "dim": 48, "depth": 2, "heads": 4, "num_classes": 6}


def small(name: str) -> nn.Module:
    return create_model(name, **({} if name in TINY else SMALL_IMAGE)).eval()


def inputs(model: nn.Module, batch: int = 2) -> torch.Tensor:
    clip = model.clip
    shape = (clip.frames, clip.size, clip.size) if "T" in model.axes else (clip.size, clip.size)
    return torch.randn(batch, 3, *shape, generator=torch.Generator().manual_seed(0))


def on_meta(name: str, **arguments: object) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **arguments)


@pytest.mark.parametrize("name", EVERY)
def test_entries_describe_their_models(name: str) -> None:
    entry, model = model_entry(name), on_meta(name)
    assert isinstance(entry, Entry)
    assert isinstance(entry.clip, ClipSpec)
    assert entry.name == name
    assert entry.summary
    assert "arXiv" in entry.source
    assert model.clip == entry.clip
    assert model.num_classes == entry.defaults["num_classes"]
    config = json.loads(json.dumps(model.config))
    again = on_meta(**config)
    assert again.config == model.config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", EVERY)
def test_layer_groups_hold_every_parameter_once(name: str) -> None:
    model = on_meta(name)
    groups = model.layer_groups()
    names = [key for key, _ in model.named_parameters()]
    assert sorted(key for group in groups for key in group) == sorted(names)
    assert len(groups) == model.config["depth"] + 2
    assert "patch_embed.proj.weight" in groups[0]
    assert "head.weight" in groups[-1]
    assert model.no_weight_decay() <= set(names)


@pytest.mark.parametrize("name", [*TINY, "vit_t_16", "deit3_s_16"])
def test_forward_backward_and_shapes(name: str) -> None:
    model = small(name).train()
    x = inputs(model)
    logits = model(x)
    assert logits.shape == (2, model.num_classes)
    logits.square().sum().backward()
    untouched = [key for key, p in model.named_parameters() if p.grad is None]
    assert not untouched
    model.eval()
    assert model.embed(x).shape == (2, model.num_features)
    assert model.forward_features(x).shape[-1] == model.num_features
    model.reset_head(4)
    assert (model(x).shape[1], model.num_classes, model.config["num_classes"]) == (4, 4, 4)
    with pytest.raises(ValueError, match="at least 1"):
        model.reset_head(0)


@pytest.mark.parametrize("name", [*TINY, "vit_t_16"])
def test_logits_do_not_depend_on_the_batch(name: str) -> None:
    model = small(name)
    x = inputs(model, batch=3)
    with torch.no_grad():
        alone = torch.cat([model(one) for one in x.split(1)])
        torch.testing.assert_close(model(x), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["divided", "joint", "space"])
def test_gradient_checkpointing_changes_no_gradient(attention: str) -> None:
    model = create_model("timesformer_tiny", attention=attention)
    x, gradients = inputs(model), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", [*TINY, "vit_t_16"])
def test_bfloat16_and_autocast(name: str) -> None:
    model = small(name)
    x = inputs(model)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert (model(x).float() - exact).abs().max() < 0.1 * exact.abs().max() + 0.05
        half = model.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max() + 0.05


@pytest.mark.parametrize("name", [*TINY, "vit_t_16"])
def test_copies_pickles_and_exports(name: str) -> None:
    model = small(name)
    x = inputs(model)
    with torch.no_grad():
        expected = model(x)
        stored = io.BytesIO()
        torch.save(model, stored)
        stored.seek(0)
        twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(stored, weights_only=False)  # noqa: S301
        for twin in twins:
            assert torch.equal(twin(x), expected)
            assert twin.config == model.config
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
        torch.testing.assert_close(program.module()(x), expected)
        torch.testing.assert_close(program.module()(torch.cat([x, x]))[2:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["divided", "joint", "space"])
def test_traces_as_one_graph(attention: str) -> None:
    """torch.compile sees no graph break; the eager backend spares the tests a compiler."""
    model = create_model("timesformer_tiny", attention=attention).eval()
    x = inputs(model)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((3, 8, 48, 48), torch.float32), ((1, 1, 8, 48, 48), torch.float32), ((1, 3, 0, 48, 48), torch.float32),
     ((1, 3, 8, 48, 11), torch.float32), ((1, 3, 8, 48, 48), torch.uint8)],
)  # fmt: skip
def test_wrong_inputs_are_named(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    model = create_model("timesformer_tiny")
    with pytest.raises(ValueError, match=r"TimeSformer takes \(B, 3, T, H, W\) float.* got"):
        model(torch.zeros(shape, dtype=dtype))


def test_another_clip_than_built_is_taken() -> None:
    model = create_model("timesformer_tiny").eval()
    for shape in ((1, 3, 5, 48, 48), (1, 3, 8, 60, 36), (1, 3, 1, 25, 12)):
        assert model(torch.randn(shape)).shape == (1, 10)


def test_space_only_does_not_see_the_order_of_frames() -> None:
    x = torch.randn(2, 3, 8, 48, 48)
    for attention, blind in (("space", True), ("divided", False), ("joint", False)):
        model = create_model("timesformer_tiny", attention=attention).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        with torch.no_grad():
            assert torch.allclose(model(x), model(x.flip(2)), atol=1e-4) == blind


def test_initialisation_is_the_published_one() -> None:
    model = create_model("timesformer", depth=3)
    assert all(not block.temporal_fc.weight.any() and not block.temporal_fc.bias.any() for block in model.blocks)
    assert not model.time_embed.any()
    block = model.blocks[0]
    assert not torch.equal(block.attn.qkv.weight, block.temporal_attn.qkv.weight)
    for weight in (model.pos_embed, block.attn.qkv.weight, block.temporal_attn.qkv.weight, model.head.weight):
        assert abs(weight.std().item() - 0.02) < 1e-3
    assert [round(block.drop_path.rate, 3) for block in model.blocks] == [0.0, 0.05, 0.1]
    tiny = create_model("timesformer_tiny")
    assert abs(tiny.pos_embed.std().item() - 0.5) < 0.05
    assert abs(tiny.time_embed.std().item() - 1.0) < 0.1
    assert abs(tiny.blocks[0].temporal_attn.qkv.weight.std().item() - 0.12) < 0.01


def test_drop_path_drops_a_clip_whole() -> None:
    model = create_model("timesformer_tiny", drop_path=0.9, depth=2).train()
    block = model.blocks[1]
    cls, x = torch.randn(64, 1, 96), torch.randn(64, 4, 2, 96)
    a, b = block.drop_path.together(cls, x)
    assert torch.equal(a.flatten(1).any(1), b.flatten(1).any(1))
    assert 0 < a.flatten(1).any(1).sum() < 32


def test_unknown_names_and_arguments_are_errors() -> None:
    with pytest.raises(UnknownModel, match="no model 'timesfomer'; did you mean timesformer"):
        create_model("timesfomer")
    with pytest.raises(TypeError, match=r"no argument 'head', did you mean 'heads'\? It takes .*heads=12"):
        create_model("timesformer", head=3)
    with pytest.raises(TypeError, match="no argument 'frames'"):
        create_model("vit_b_16", frames=8)
    with pytest.raises(ValueError, match="size must be a whole number"):
        create_model("timesformer_tiny", size=0)
    with pytest.raises(ValueError, match="does not divide into 5 heads"):
        create_model("timesformer_tiny", heads=5)
    with pytest.raises(ValueError, match="attention must be"):
        create_model("timesformer_tiny", attention="axial")


@pytest.mark.parametrize(
    ("name", "arguments", "parameters", "gmacs"),
    [
        ("timesformer", {}, 121.57, 195.8),
        ("timesformer_hr", {}, 122.02, 1702.7),
        ("timesformer_l", {}, 121.63, 2379.9),
        ("timesformer", {"attention": "joint"}, 86.11, 179.6),
        ("timesformer", {"attention": "space"}, 86.11, 140.5),
        ("vit_b_16", {}, 86.57, 17.6),
        ("vit_l_16", {}, 304.33, 61.6),
        ("deit3_b_16", {}, 86.59, 17.6),
    ],
)
def test_sizes_are_those_of_the_papers(name: str, arguments: dict, parameters: float, gmacs: float) -> None:
    model = on_meta(name, **arguments)
    clip = model.clip
    shape = (1, 3, clip.frames, clip.size, clip.size) if "T" in model.axes else (1, 3, clip.size, clip.size)
    counted, macs = count_cost(model, shape)
    assert counted / 1e6 == pytest.approx(parameters, rel=0.01)
    assert macs / 1e9 == pytest.approx(gmacs, rel=0.02)


def test_cost_leaves_the_model_as_it_was() -> None:
    model = create_model("timesformer_tiny").train()
    count_cost(model, (1, 3, 8, 48, 48))
    assert model.training
    assert model.pos_embed.device.type == "cpu"
