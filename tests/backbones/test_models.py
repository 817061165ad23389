"""The face that every model of the registry has."""

import copy
import io
import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.backbones import (
    ClipSpec,
    Entry,
    UnknownModel,
    count_cost,
    create_model,
    list_models,
    model_entry,
)
from tubelet.backbones.image import vit
from tubelet.backbones.lift.linear import Linear

EVERY = [*list_models(), *list_models(kind="image")]
TINY = list_models("*_tiny")
SMALL_VIT = {"size": 32, "dim": 48, "depth": 2, "heads": 4, "num_classes": 6}
SMALL_IMAGES = {
    "vit_t_16": SMALL_VIT,
    "deit3_s_16": SMALL_VIT,
    "resnet_18": {"size": 48, "width": 8},
    "resnext_50_32x4d": {"size": 48, "layers": (1, 1, 1, 1), "width": 16},
    "se_resnet_50": {"size": 48, "layers": (1, 1, 1, 1), "width": 16},
    "cbam_resnet_50": {"size": 48, "layers": (1, 1, 1, 1), "width": 16},
    "googlenet": {"size": 64, "width": 16},
    "vgg11": {"size": 64, "width": 8, "hidden": 32, "head_dropout": 0.0},
    "swin_t": {"size": 64, "dim": 24, "depths": (2, 2), "heads": (2, 4)},
    "uniformer_2d_s": {"size": 64, "dim": (16, 32, 48, 64), "depth": (1, 1, 1, 1), "head_dim": 16},
}
VARIANTS = (
    *((name, {}) for name in TINY),
    ("timesformer_tiny", {"attention": "joint"}),
    ("timesformer_tiny", {"attention": "space"}),
    ("vivit_tiny", {"variant": "joint"}),
    ("vivit_tiny", {"variant": "factorised_attention"}),
    ("vivit_tiny", {"variant": "factorised_attention", "attention_order": "space_time"}),
    ("vivit_tiny", {"variant": "factorised_heads", "pool": "mean"}),
    ("xvit_tiny", {"head": "temporal"}),
    ("xvit_tiny", {"segments": 4}),
    ("uniformer_tiny", {"attention": "split"}),
    ("csn_tiny", {"mode": "ip"}),
    ("p3d_tiny", {"form": "port", "frames": 16}),
    ("r2plus1d_tiny", {"midplanes": "conv"}),
    *SMALL_IMAGES.items(),
)
every_variant = pytest.mark.parametrize(
    ("name", "arguments"),
    VARIANTS,
    ids=[
        f"{name} {' '.join(map(str, {} if name in SMALL_IMAGES else arguments.values()))}"
        for name, arguments in VARIANTS
    ],
)


def inputs(model: nn.Module, batch: int = 2) -> torch.Tensor:
    clip = model.clip
    shape = (clip.frames, clip.size, clip.size) if "T" in model.axes else (clip.size, clip.size)
    return torch.randn(batch, 3, *shape, generator=torch.Generator().manual_seed(0))


def settled(name: str, **arguments: object) -> nn.Module:
    """A model whose BatchNorm has seen some inputs, so that its evaluation is as tame as its training."""
    model = create_model(name, **arguments)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        with torch.no_grad():
            for _ in range(12):
                model.train()(torch.randn_like(inputs(model, 4)))
    return model.eval()


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
    assert json.loads(json.dumps(again.config)) == config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", EVERY)
def test_layer_groups_hold_every_parameter_once(name: str) -> None:
    model = on_meta(name)
    groups = model.layer_groups()
    names = [key for key, _ in model.named_parameters()]
    assert sorted(key for group in groups for key in group) == sorted(names)
    assert len(groups) >= 6
    assert all(groups)
    assert {"head.weight", "head.bias"} <= set(groups[-1])
    assert model.no_weight_decay() <= set(names)


@every_variant
def test_forward_backward_and_shapes(name: str, arguments: dict) -> None:
    model = create_model(name, **arguments).train()
    assert model.train() is model
    x = inputs(model)
    logits = model(x)
    assert logits.shape == (2, model.num_classes)
    logits.square().sum().backward()
    untouched = [key for key, p in model.named_parameters() if p.grad is None]
    assert not untouched
    assert model.eval() is model
    with torch.no_grad():
        vector, features = model.embed(x), model.forward_features(x)
        assert vector.shape == (2, model.num_features)
        assert len(features) == 2
        torch.testing.assert_close(model(x), model.head(vector))
        model.reset_head(4)
        assert (model(x).shape[1], model.num_classes, model.config["num_classes"]) == (4, 4, 4)
    with pytest.raises(ValueError, match="at least 1"):
        model.reset_head(0)


@every_variant
def test_logits_do_not_depend_on_the_batch(name: str, arguments: dict) -> None:
    model = settled(name, **arguments)
    x = inputs(model, batch=3)
    with torch.no_grad():
        alone = torch.cat([model(one) for one in x.split(1)])
        torch.testing.assert_close(model(x), alone, rtol=1e-4, atol=1e-5)


@every_variant
def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(name: str, arguments: dict) -> None:
    plain = create_model(name, **arguments).double().train()
    recomputing = copy.deepcopy(plain)
    recomputing.set_grad_checkpointing()
    x = inputs(plain).double()
    for model in (plain, recomputing):
        torch.manual_seed(0)
        model(x).square().sum().backward()
    for a, b in zip(plain.parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(plain.buffers(), recomputing.buffers(), strict=True):
        assert torch.equal(a, b)


@every_variant
def test_bfloat16_and_autocast(name: str, arguments: dict) -> None:
    model = settled(name, **arguments)
    x = inputs(model)
    with torch.no_grad():
        exact = model(x)
        allowed = 0.1 * exact.abs().max() + 0.05
        with torch.autocast("cpu", torch.bfloat16):
            assert (model(x).float() - exact).abs().max() < allowed
        half = model.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < allowed


@every_variant
def test_autocast_trains(name: str, arguments: dict) -> None:
    model = create_model(name, **arguments).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(inputs(model)).float().square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("name", [*TINY, *SMALL_IMAGES])
def test_copies_pickles_and_exports(name: str) -> None:
    model = settled(name, **SMALL_IMAGES.get(name, {}))
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
        torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(program.module()(torch.cat([x, x]))[2:], expected, rtol=1e-4, atol=1e-5)


@every_variant
def test_traces_as_one_graph(name: str, arguments: dict) -> None:
    """torch.compile sees no graph break; the eager backend spares the tests a compiler."""
    torch.compiler.reset()
    model = settled(name, **arguments)
    x = inputs(model)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timesformer_tiny", "csn_tiny"])
def test_compiles_and_trains_compiled(name: str) -> None:
    """The whole of torch.compile, of one network of attention and one of convolutions. In float64: in float32 a number
    next to the kink of a ReLU may fall on its other side, and gradients then differ by more than rounding."""
    torch.compiler.reset()
    model = settled(name).double()
    x = inputs(model).double()
    compiled = torch.compile(model)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-9, atol=1e-9)
    compiled(x).square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    for compiled_gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(
            compiled_gradient, parameter.grad, rtol=1e-9, atol=1e-9 * parameter.grad.abs().max().item()
        )


def test_hooks_see_what_a_layer_gave() -> None:
    """The GELU works in place only where no one looks at its input."""
    model = create_model("timesformer_tiny").eval()
    seen: list[torch.Tensor] = []
    layer = model.get_submodule("blocks.0.mlp.fc1")
    layer.register_forward_hook(lambda module, args, output: seen.extend((args[0], output)))
    with torch.no_grad():
        model(inputs(model))
        torch.testing.assert_close(seen[1], nn.functional.linear(seen[0], layer.weight, layer.bias))


@pytest.mark.parametrize("name", TINY)
def test_wrong_inputs_are_named(name: str) -> None:
    model = create_model(name)
    for shape, dtype in (
        ((3, 8, 48, 48), torch.float32),
        ((1, 1, 8, 48, 48), torch.float32),
        ((1, 3, 0, 48, 48), torch.float32),
        ((1, 3, 8, 48, 0), torch.float32),
        ((1, 3, 8, 48, 48), torch.uint8),
    ):
        with pytest.raises(ValueError, match=rf"{type(model).__name__} takes \(B, 3, T, H, W\) float.* got"):
            model(torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("name", [name for name in TINY if not name.startswith("c3d")])
def test_another_clip_than_built_is_taken(name: str) -> None:
    model = create_model(name).eval()
    with torch.no_grad():
        for shape in ((1, 3, 5, 48, 48), (1, 3, 10, 61, 37), (1, 3, 4, 53, 72)):
            assert model(torch.randn(shape)).shape == (1, 10)


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


def test_cost_leaves_the_model_as_it_was() -> None:
    model = create_model("timesformer_tiny").train()
    count_cost(model, (1, 3, 8, 48, 48))
    assert model.training
    assert model.pos_embed.device.type == "cpu"


@pytest.mark.parametrize("tokens", [vit.FEW_ON_CPU, vit.FEW_ON_CPU + 1, vit.SHORT_ON_CPU + 1])
def test_both_ways_to_attend_in_bf16_are_attention(tokens: int) -> None:
    exact = [torch.randn(2, 3, tokens, 16).bfloat16().double().requires_grad_() for _ in range(3)]
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    expected = F.scaled_dot_product_attention(*exact)
    with torch.no_grad():
        assert (vit.attend(*(x.detach() for x in rounded), 0.0) - expected).abs().max() < 0.03
    got = vit.attend(*rounded, 0.0)
    assert (got - expected).abs().max() < 0.03
    pairs = zip(*(torch.autograd.grad(y.sum(), xs) for y, xs in ((got, rounded), (expected, exact))), strict=True)
    assert all((one - other).abs().max() < 0.03 for one, other in pairs)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_in_bf16_is_one_however_it_is_computed(bias: bool) -> None:
    layer = Linear(40, 24, bias=bias).bfloat16()
    x = torch.randn(3, 5, 80).bfloat16()[..., ::2]
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with_gradients = layer(x)
    with_gradients.sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        got, one_by_one = layer(x), torch.stack([layer(row) for row in x])
        traced = torch.compile(layer, backend="eager", fullgraph=True)(x)
        with torch.autocast("cpu", torch.bfloat16):
            cast = copy.deepcopy(layer).float()(x.float())
            assert copy.deepcopy(layer).double()(x.double()).dtype == torch.float64
    for y in (with_gradients, got, one_by_one, traced, cast):
        assert y.dtype == torch.bfloat16
        # torch's own rounds the sum twice, at up to 1.2 times 2**-8 in 3000 draws; oneDNN's once, at 0.7 times
        torch.testing.assert_close(y.double(), exact, rtol=2**-7, atol=2**-7)


@pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="a CPU without bf16 instructions",
)
def test_only_plain_layers_in_bf16_without_gradients_leave_torch_for_onednn() -> None:
    layer, x = Linear(8, 4).bfloat16(), torch.randn(2, 8).bfloat16()

    def calls(layer: nn.Module, x: Tensor) -> int:
        with torch.profiler.profile() as profile:
            layer(x)
        return sum(event.count for event in profile.key_averages() if event.key == "mkldnn::_linear_pointwise")

    assert calls(layer, x) == 0
    with torch.no_grad():
        assert calls(layer, x) == 1
        assert calls(Linear(8, 4), x.float()) == 0
        with pytest.raises(RuntimeError, match="2x7 and 8x4"):
            layer(x[:, :7])
        with torch.autocast("cpu", torch.bfloat16):
            assert calls(Linear(8, 4), x.float()) == 1
