"""UniFormer, of images and of video: against a plain reading of the papers' formulas, and how weights reach it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tubelet.backbones import count_cost, create_model, load_weights
from tubelet.backbones.layouts import WeightsError
from tubelet.backbones.lift.conv import Conv3d

SMALL = {"dim": [8, 12, 16, 24], "depth": [1, 2, 1, 2], "head_dim": 8, "mlp_ratio": 2, "num_classes": 5}
State = dict[str, Tensor]


def randomised(name: str, seed: int = 0, **arguments: object) -> nn.Module:
    """A small float64 model, every weight and statistic of which is random."""
    model = create_model(name, **{**SMALL, **arguments}).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for key, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point():
            random = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            value.data = random.abs() + 0.5 if key.endswith("running_var") else 0.2 * random
    return model


def random_input(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def plain_uniformer(
    state: State, x: Tensor, head_dim: int, norm_eps: float, patch_norm_eps: float = 1e-5, training: bool = False
) -> Tensor:
    """The published network, written from its formulas on contiguous (B, C, ...) tensors; joint, split, and images."""
    video = x.ndim == 5

    def conv(key: str, x: Tensor, stride: object = 1, padding: object = 0) -> Tensor:
        weight = state[f"{key}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return (F.conv3d if video else F.conv2d)(x, weight, state[f"{key}.bias"], stride, padding, groups=groups)

    def depthwise(key: str, x: Tensor) -> Tensor:
        return conv(key, x, padding=state[f"{key}.weight"].shape[-1] // 2)

    def batch_norm(key: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (state[f"{key}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        shape = (1, -1, *[1] * (x.ndim - 2))
        if training:
            var, mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=0)
        return ((x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()) * weight.view(shape) + bias.view(shape)

    def layer_norm(key: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"], eps)

    def linear(key: str, x: Tensor) -> Tensor:
        return x @ state[f"{key}.weight"].t() + state[f"{key}.bias"]

    def attention(key: str, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (x.shape[-1] // head_dim, -1)).transpose(1, 2)
            for part in linear(f"{key}.qkv", x).chunk(3, -1)
        )
        weights = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5, dim=-1)
        return linear(f"{key}.proj", torch.einsum("bhij,bhjd->bihd", weights, v).flatten(2))

    def mlp(key: str, x: Tensor) -> Tensor:
        return linear(f"{key}.fc2", F.gelu(linear(f"{key}.fc1", x)))

    def embed(stage: int, x: Tensor) -> Tensor:
        key = f"patch_embed{stage}.proj"
        if f"{key}.0.weight" in state:
            x = batch_norm(f"{key}.1", conv(f"{key}.0", x, 2, 1))
            return batch_norm(f"{key}.4", conv(f"{key}.3", F.gelu(x), 2, 1)) if stage == 1 else x
        kernel = state[f"{key}.weight"].shape[2:]
        stride = ((2 if stage == 1 else 1), *kernel[1:]) if video else kernel
        x = conv(key, x, stride, (kernel[0] // 2, 0, 0) if video else 0)
        return layer_norm(f"patch_embed{stage}.norm", x.movedim(1, -1), patch_norm_eps).movedim(-1, 1)

    def block(key: str, x: Tensor) -> Tensor:
        x = x + depthwise(f"{key}.pos_embed", x)
        if f"{key}.conv1.weight" in state:
            y = conv(f"{key}.conv1", batch_norm(f"{key}.norm1", x))
            x = x + conv(f"{key}.conv2", depthwise(f"{key}.attn", y))
            y = conv(f"{key}.mlp.fc1", batch_norm(f"{key}.norm2", x))
            return x + conv(f"{key}.mlp.fc2", F.gelu(y))
        axes = x.shape[2:]
        scale1, scale2 = (state.get(f"{key}.ls{i}.gamma", torch.tensor(1.0)) for i in (1, 2))
        tokens = x.flatten(2).transpose(1, 2)
        if f"{key}.t_attn.qkv.weight" in state:
            frames, positions = axes[0], axes[1] * axes[2]
            seen = torch.stack([  # each position over time
                each + attention(f"{key}.t_attn", layer_norm(f"{key}.t_norm", each, norm_eps))
                for each in tokens.unflatten(1, (frames, positions)).unbind(2)
            ], dim=2)  # fmt: skip
            seen = layer_norm(f"{key}.norm1", seen, norm_eps)
            tokens = tokens + torch.cat([attention(f"{key}.attn", frame) for frame in seen.unbind(1)], dim=1)
        else:
            tokens = tokens + scale1 * attention(f"{key}.attn", layer_norm(f"{key}.norm1", tokens, norm_eps))
        tokens = tokens + scale2 * mlp(f"{key}.mlp", layer_norm(f"{key}.norm2", tokens, norm_eps))
        return tokens.transpose(1, 2).unflatten(2, axes)

    for stage in (1, 2, 3, 4):
        x = embed(stage, x)
        i = 0
        while f"blocks{stage}.{i}.norm1.weight" in state:
            x = block(f"blocks{stage}.{i}", x)
            i += 1
    return linear("head", batch_norm("norm", x).flatten(2).mean(-1))


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("uniformer_s", {}, (2, 3, 8, 32, 64)),
        ("uniformer_s", {"attention": "split"}, (2, 3, 7, 64, 64)),
        ("uniformer_s", {"patch_t": [3, 3, 3, 3], "norm_eps": 1e-3, "patch_norm_eps": 1e-2}, (1, 3, 5, 71, 45)),
        ("uniformer_s", {"patch": [2, 2, 1, 2], "pos_kernel": 5, "local_kernel": 3}, (1, 3, 1, 23, 30)),
        ("uniformer_2d_s", {}, (2, 3, 64, 96)),
        ("uniformer_2d_b_ls", {}, (2, 3, 45, 71)),
        ("uniformer_2d_s_plus", {}, (2, 3, 33, 70)),
    ],
)
def test_logits_are_those_of_the_formulas(name: str, arguments: dict, shape: tuple[int, ...]) -> None:
    model, x = randomised(name, **arguments), random_input(*shape)
    config = model.config
    with torch.no_grad():
        expected = plain_uniformer(
            model.state_dict(), x, config["head_dim"], config["norm_eps"], config["patch_norm_eps"]
        )
        assert (model(x) - expected).abs().max() <= 1e-10 * expected.abs().max()
        single = model.float()(x.float()).double()
        assert (single - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("shape", [(2, 3, 1, 32, 32), (2, 3, 4, 32, 64)])
@pytest.mark.parametrize("attention", ["joint", "split"])
def test_gradients_are_those_of_the_formulas(shape: tuple[int, ...], attention: str) -> None:
    """In training; one frame and one position leave strides open, which torch's batch norm has taken amiss."""
    model, x = randomised("uniformer_s", attention=attention, drop_path=0.0).train(), random_input(*shape)
    parameters = dict(model.named_parameters())
    expected = plain_uniformer({**model.state_dict(), **parameters}, x, 8, 1e-6, training=True).square().sum()
    wanted = torch.autograd.grad(expected, list(parameters.values()))
    given = torch.autograd.grad(model(x).square().sum(), list(parameters.values()))
    scale = max(gradient.abs().max() for gradient in wanted)
    for name, ours, plain in zip(parameters, given, wanted, strict=True):
        assert (ours - plain).abs().max() <= 1e-9 * scale, name


@settings(max_examples=15, deadline=None)
@given(frames=st.integers(1, 9), height=st.integers(32, 75), width=st.integers(32, 75))
def test_any_clip_is_taken(frames: int, height: int, width: int) -> None:
    model = create_model("uniformer_s", dim=[4, 4, 4, 4], depth=[1, 1, 1, 1], head_dim=4, mlp_ratio=1).eval()
    with torch.no_grad():
        features = model.forward_features(torch.randn(1, 3, frames, height, width))
    assert features.shape == (1, (frames + 1) // 2, height // 32, width // 32, 4)
    assert features.is_contiguous()


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [
        ("uniformer_2d_s", 21.55, 3.6),
        ("uniformer_2d_s_plus", 24.03, 4.2),
        ("uniformer_2d_b", 49.78, 8.3),
        ("uniformer_s", 21.40, 41.7),
        ("uniformer_b", 49.81, 96.6),
    ],
)
def test_sizes_are_those_of_the_papers(name: str, parameters: float, gmacs: float) -> None:
    with torch.device("meta"):
        model = create_model(name)
    clip = model.clip
    counted, macs = count_cost(model, (1, 3, *[clip.frames] * ("T" in model.axes), clip.size, clip.size))
    assert counted / 1e6 == pytest.approx(parameters, rel=1e-3)
    assert macs / 1e9 == pytest.approx(gmacs, rel=0.02)


def mmaction(state: State) -> State:
    renamed = {f"backbone.{key}" if not key.startswith("head.") else key: value for key, value in state.items()}
    return {key.replace("head.", "cls_head.fc_cls."): value for key, value in renamed.items()}


def official(state: State) -> State:
    """The official names of LayerScale."""
    return {key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for key, v in state.items()}


def test_layouts_of_video_weights_load_and_say_so() -> None:
    source, x = randomised("uniformer_s", attention="split"), random_input(1, 3, 4, 32, 32)
    state = source.state_dict()
    prefixed = {f"backbone.{key}": value for key, value in state.items() if not key.startswith("head.")}
    for keys, layout in ((state, "UniFormer (official)"), (mmaction(state), "UniFormer (MMAction2)")):
        model = randomised("uniformer_s", seed=1, attention="split")
        report = load_weights(model, keys)
        assert report.layout == layout
        assert len(report.loaded) == report.total
        assert torch.equal(model(x), source(x))
        assert ("eps 1e-5" in str(report)) == ("MMAction2" in layout)
    assert "eps" not in str(load_weights(randomised("uniformer_s", norm_eps=1e-5), mmaction(joint_state())))
    report = load_weights(randomised("uniformer_s", attention="split"), prefixed)
    assert report.initialised == ["head.weight", "head.bias"]


def joint_state() -> State:
    return randomised("uniformer_s").state_dict()


def test_image_weights_are_shared_out_over_time() -> None:
    image, video = randomised("uniformer_2d_s", num_classes=7), randomised("uniformer_s", seed=1)
    report = load_weights(video, official(image.state_dict()))
    state, lifted = image.state_dict(), video.state_dict()
    assert report.layout == "image UniFormer"
    assert sorted(report.initialised) == ["head.bias", "head.weight"]
    assert report.inflated["blocks1.0.attn.weight"] == "mean over 5 frames"
    assert report.inflated["blocks4.1.pos_embed.weight"] == "mean over 3 frames"
    assert report.inflated["patch_embed1.proj.weight"] == "mean over 3 frames"
    assert report.inflated["blocks1.0.conv1.weight"] == "one frame, as it stands"
    assert set(report.inflated) == {key for key, value in lifted.items() if value.ndim == 5}
    for key in report.inflated:
        assert torch.allclose(lifted[key].sum(2), state[key])
        assert torch.equal(lifted[key], lifted[key][:, :, :1].expand_as(lifted[key]))
    untouched = set(lifted) - set(report.inflated) - {"head.weight", "head.bias"}
    assert all(torch.equal(lifted[key], state[key]) for key in untouched)


def test_a_still_video_looks_as_its_image_away_from_the_ends() -> None:
    image, video = randomised("uniformer_2d_s"), randomised("uniformer_s", seed=1)
    load_weights(video, image.state_dict())
    still = random_input(1, 3, 32, 32)
    with torch.no_grad():
        expected = image.blocks1[0](image.patch_embed1(still))
        seen = video.blocks1[0](video.patch_embed1(still.unsqueeze(2).expand(-1, -1, 17, -1, -1)))
    assert seen.shape[2] == 9
    near = torch.allclose(seen[:, :, 0], expected[:, :], atol=1e-6)
    inside = seen[:, :, 4:5]  # position and relation reach 1 + 2 frames, the embedding 1 before its stride of 2
    assert torch.allclose(inside, expected.unsqueeze(2), atol=1e-12)
    assert not near


def test_split_attention_starts_blind_to_time_from_joint_weights() -> None:
    model, joint = randomised("uniformer_s", seed=1, attention="split"), randomised("uniformer_s")
    fresh = create_model("uniformer_s", **SMALL, attention="split", drop_path=0.0).double().eval()
    report = load_weights(fresh, joint.state_dict())
    assert all(".t_attn." in key or ".t_norm." in key for key in report.initialised)
    assert len(report.initialised) == 3 * 6
    tokens = random_input(3, 4, 24)
    assert not fresh.blocks4[0].t_attn(tokens).any()
    assert model.blocks4[0].t_attn(tokens).any()
    fresh.train()(random_input(2, 3, 4, 32, 32)).square().sum().backward()
    assert fresh.blocks4[0].t_attn.qkv.weight.grad.any()


def test_layer_scale_is_folded_where_the_model_has_none() -> None:
    scaled, x = randomised("uniformer_2d_b_ls"), random_input(1, 3, 64, 64)
    plain = randomised("uniformer_2d_b", seed=1)
    report = load_weights(plain, official(scaled.state_dict()))
    assert len(report.loaded) == report.total
    assert "LayerScale was folded" in str(report)
    torch.testing.assert_close(plain(x), scaled(x))

    state = plain.state_dict()
    for key in [key for key in state if key.endswith("norm1.running_mean")]:  # as token labelling has it in stage 1, 2
        block, width = key.removesuffix(".norm1.running_mean"), state[key].shape[0]
        state |= {f"{block}.gamma_{i}": torch.full((1, width, 1, 1), 2.0, dtype=torch.float64) for i in (1, 2)}
        state[f"{block}.conv2.weight"], state[f"{block}.conv2.bias"] = (
            state[f"{block}.conv2.{part}"] / 2 for part in ("weight", "bias")
        )
        state[f"{block}.mlp.fc2.weight"], state[f"{block}.mlp.fc2.bias"] = (
            state[f"{block}.mlp.fc2.{part}"] / 2 for part in ("weight", "bias")
        )
    state |= {"aux_head.weight": torch.zeros(5, 24), "aux_head.bias": torch.zeros(5)}
    again = randomised("uniformer_2d_b", seed=2)
    report = load_weights(again, state)
    assert list(report.dropped) == ["aux_head.weight", "aux_head.bias"]
    torch.testing.assert_close(again(x), plain(x))


def test_wrong_weights_are_told() -> None:
    with pytest.raises(WeightsError, match=r"depth \(1, 2, 1, 2\), this model has \(1, 2, 2, 2\)"):
        load_weights(randomised("uniformer_s", depth=[1, 2, 2, 2]), joint_state())
    with pytest.raises(WeightsError, match="attention split, this model has joint"):
        load_weights(randomised("uniformer_s"), randomised("uniformer_s", attention="split").state_dict())
    with pytest.raises(WeightsError, match=r"patch_t \(3, 1, 1, 1\), this model has \(3, 3, 3, 3\)"):
        load_weights(randomised("uniformer_s", patch_t=[3, 3, 3, 3]), joint_state())
    with pytest.raises(WeightsError, match="conv_stem True, this model has False"):
        load_weights(randomised("uniformer_s"), randomised("uniformer_2d_s_plus").state_dict())
    with pytest.raises(WeightsError, match=r"these are weights of UniFormer \(official\)"):
        load_weights(randomised("uniformer_2d_s"), joint_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "axial"}, "attention must be 'joint' or 'split', got 'axial'"),
        ({"dim": [8, 8, 8]}, r"dim is four numbers of at least 1, one a stage, got \[8, 8, 8\]"),
        ({"depth": [1, 0, 1, 1]}, "depth is four numbers"),
        ({"local_kernel": 4}, "local_kernel must be odd, got 4"),
        ({"patch_t": [3, 2, 1, 1]}, "patch_t is four odd numbers"),
        ({"stride_t": [0, 1, 1, 1]}, "stride_t is four numbers"),
        ({"head_dim": 64, "dim": [8, 8, 32, 64]}, "head_dim 64 gives no head"),
        ({"head_dim": 10, "dim": [8, 8, 32, 64]}, "dim 32 does not divide into 3 heads"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("uniformer_tiny", **arguments)
    with pytest.raises(ValueError, match=r"got \(1, 3, 8, 31, 40\)"):
        create_model("uniformer_tiny")(torch.zeros(1, 3, 8, 31, 40))


@pytest.mark.parametrize("attention", ["joint", "split"])
def test_gradient_checkpointing_changes_no_gradient(attention: str) -> None:
    torch.manual_seed(0)
    model = create_model("uniformer_tiny", attention=attention)
    x, gradients = torch.randn(2, 3, 4, 32, 32), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*gradients, strict=True))


def test_split_attention_is_traced_and_exported() -> None:
    model = create_model("uniformer_tiny", attention="split", depth=[1, 1, 1, 1]).eval()
    x = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), expected)
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
        torch.testing.assert_close(program.module()(torch.cat([x, x]))[2:], expected)


def test_depthwise_gradients_are_those_of_torch() -> None:
    conv = Conv3d(6, 6, (3, 5, 5), padding=(1, 2, 2), groups=6).double()
    plain = nn.Conv3d(6, 6, (3, 5, 5), padding=(1, 2, 2), groups=6).double()
    plain.load_state_dict(conv.state_dict())
    results = []
    for module in (conv, plain):
        x = random_input(2, 6, 4, 7, 5).requires_grad_()
        y = module(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad, module.weight.grad, module.bias.grad))
    assert all(torch.allclose(a, b) for a, b in zip(*results, strict=True))
    with torch.no_grad():
        assert torch.allclose(conv(random_input(2, 6, 4, 7, 5)), results[1][0])


def test_every_block_is_in_a_group_of_its_own() -> None:
    groups = create_model("uniformer_tiny").layer_groups()
    assert len(groups) == 1 + sum((1, 1, 2, 1)) + 1
    assert {name.split(".")[0] for name in groups[0]} == {"patch_embed1"}
    assert {name.split(".")[0] for name in groups[2]} == {"patch_embed2", "blocks2"}
    assert "head.weight" in groups[-1]
