"""R(2+1)D: factorised convolutions, the channels between, and weights; the gradients of the depthwise convolution."""

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tubelet.backbones import WeightsError, create_model, load_weights
from tubelet.backbones.lift.conv import Conv3d, conv_norm, fold_frames, unfold_frames
from tubelet.backbones.lift.depthwise import depthwise_conv3d
from tubelet.backbones.lift.factorise import factorise_conv, midplanes

TINY = {"width": 4, "layers": (1, 1, 1, 1), "stem_mid": 3, "num_classes": 5}
MMACTION = {"midplanes": "conv", "stem_mid": "conv", "stem_pool": True, "factorise_shortcut": True, "norm_eps": 1e-3,
            "mid_norm_eps": 1e-5}  # fmt: skip
CLIP = torch.randn(2, 3, 5, 33, 24, generator=torch.Generator().manual_seed(1))


def randomised(name: str, **arguments: object) -> nn.Module:
    model = create_model(name, **arguments).eval()
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(std=0.3, generator=generator)
    return model


@given(st.integers(1, 600), st.integers(1, 600), st.sampled_from((1, 9, 25, 49)), st.sampled_from((1, 3, 5)))
def test_midplanes_fill_the_weights_of_one_convolution(inputs: int, outputs: int, area: int, t: int) -> None:
    mid, whole = midplanes(inputs, outputs, area, t), t * area * inputs * outputs
    assert mid * (area * inputs + t * outputs) <= whole < (mid + 1) * (area * inputs + t * outputs)


def test_midplanes_are_the_published_ones() -> None:
    pairs = ((64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512))
    assert [midplanes(*pair) for pair in pairs] == [144, 230, 288, 460, 576, 921, 1152]
    assert (midplanes(3, 64, area=49), midplanes(64, 128, area=1)) == (83, 54)


def test_midplanes_of_the_block_or_of_each_convolution() -> None:
    def planes(**arguments: object) -> list[int]:
        with torch.device("meta"):
            block = create_model("r2plus1d_18", **arguments).layer2[0]
        return [conv.time.in_channels for conv in (block.conv1, block.conv2)]

    assert planes() == [230, 230]
    assert planes(midplanes="conv") == [230, 288]
    assert planes(midplanes="same") == [128, 128]
    with torch.device("meta"):
        deep = create_model("r2plus1d_18", block="bottleneck")
    assert deep.layer1[0].conv2.time.in_channels == midplanes(64, 64)
    assert deep.layer1[1].conv2.time.in_channels == midplanes(256, 64)


sizes = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 7))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from((1, 3, 5)), st.sampled_from((1, 3)), st.integers(1, 3), st.integers(1, 2), st.booleans(), sizes)
def test_a_factorised_convolution_has_the_shapes_of_the_whole(
    k: int, t: int, stride: int, stride_t: int, time_first: bool, size: tuple[int, int, int]
) -> None:
    image = nn.Conv2d(3, 4, k, stride, padding=k // 2)
    whole = nn.Conv3d(3, 4, (t, k, k), (stride_t, stride, stride), (t // 2, k // 2, k // 2))
    x = torch.randn(2, 3, *size)
    for one in (factorise_conv(image, 5, t, stride_t, time_first), factorise_conv(whole, 5, time_first=time_first)):
        one.eval()
        assert one(x).shape == whole(x).shape
        first, last = (one.time, one.space) if time_first else (one.space, one.time)
        between = F.relu(F.conv3d(x, first.weight, first.bias, first.stride, first.padding) / (1 + 1e-5) ** 0.5)
        expected = F.conv3d(between, last.weight, last.bias, last.stride, last.padding)
        torch.testing.assert_close(one(x), expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_factorised_is_named() -> None:
    with pytest.raises(ValueError, match="2 groups"):
        factorise_conv(nn.Conv2d(4, 4, 3, groups=2), 4)
    with pytest.raises(ValueError, match="'same'"):
        factorise_conv(nn.Conv2d(4, 4, 3, padding="same"), 4)
    for arguments, message in (
        ({"midplanes": "layer"}, "midplanes must be"),
        ({"first": "both"}, "first must be"),
        ({"time_kernel": 2}, "time_kernel must be odd"),
        ({"stem_mid": "rule"}, "stem_mid must be"),
        ({"stem_mid": 0}, "0 channels between"),
        ({"spatial_strides": (1, 2, 2)}, "spatial_strides are four"),
        ({"spatial_strides": (2, 2, 2, 2)}, "so it cannot stride by 2"),
        ({"time_strides": (1, 2)}, "strides are four"),
    ):
        with pytest.raises(ValueError, match=message):
            create_model("r2plus1d_tiny", **arguments)


@settings(deadline=None, max_examples=80)
@given(
    st.tuples(*[st.sampled_from((1, 2, 3, 4, 5, 7))] * 3), st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(*[st.integers(0, 4)] * 3), sizes,
)  # fmt: skip
def test_depthwise_gradients_are_those_of_torch(
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
    size: tuple[int, int, int],
) -> None:
    padding = tuple(min(p, k - 1) for p, k in zip(padding, kernel, strict=True))
    size = tuple(max(n, k - 2 * p) for n, k, p in zip(size, kernel, padding, strict=True))
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, *kernel, dtype=torch.float64, requires_grad=True)
    expected = F.conv3d(x, weight, None, stride, padding, groups=3)
    ours, grad = depthwise_conv3d(x, weight, stride, padding), torch.randn_like(expected)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(*(torch.autograd.grad(y, (x, weight), grad) for y in (ours, expected)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [(1, 4, 4), (3, 1, 4), (2, 3, 1), (1, 1, 1)])
def test_frames_come_back_in_the_strides_of_a_new_tensor(size: tuple[int, int, int]) -> None:
    """torch's BatchNorm gives wrong gradients where a side of 1 has another stride."""

    def new(x: Tensor) -> tuple[int, ...]:
        return torch.empty(x.shape, memory_format=torch.channels_last_3d).stride()

    x = torch.randn(2, 8, *size).to(memory_format=torch.channels_last_3d)
    for kernel in ((1, 3, 3), (3, 1, 1)):
        y = Conv3d(8, 4, kernel, padding=tuple(k // 2 for k in kernel))(x)
        assert y.stride() == new(y)
    back = unfold_frames(fold_frames(x), 2)
    assert back.stride() == new(x)
    assert torch.equal(back, x)


def test_norms_in_convolutions_change_nothing_and_are_left_alone_where_it_matters() -> None:
    model = randomised("r2plus1d_18", **TINY).double()
    clip = CLIP.double()
    expected = model(clip)  # with gradients, so apart
    with torch.no_grad():
        torch.testing.assert_close(model(clip), expected, rtol=1e-10, atol=1e-12)
        seen = []
        model.layer1[0].bn1.register_forward_hook(lambda *_: seen.append(True))
        torch.testing.assert_close(model(clip), expected, rtol=1e-10, atol=1e-12)
    assert seen
    expected.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    conv, norm = nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)
    with torch.no_grad():
        conv_norm(conv, norm, CLIP)
    assert norm.num_batches_tracked == 1  # in training the norm sees the batch


def test_depthwise_under_autocast_and_frozen() -> None:
    x, weight = torch.randn(1, 4, 3, 6, 6, requires_grad=True), torch.randn(4, 1, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv3d(x, weight, (1, 1, 1), (1, 1, 1))
    y.float().sum().backward()
    assert (y.dtype, x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    (only,) = torch.autograd.grad(depthwise_conv3d(x, weight.detach(), (2, 2, 2), (1, 1, 1)).sum(), x)
    torch.testing.assert_close(
        only, torch.autograd.grad(F.conv3d(x, weight.detach(), None, 2, 1, groups=4).sum(), x)[0]
    )


@pytest.mark.parametrize("columns", [3, 5])
def test_depthwise_gradients_are_our_own_when_compiled(columns: int) -> None:
    x = torch.randn(2, 4, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 1, 3, 3, columns, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(depthwise_conv3d, backend="aot_eager", fullgraph=True)
    y, expected = (f(x, weight, (1, 2, 1), (1, 1, 2)) for f in (compiled, depthwise_conv3d))
    torch.testing.assert_close(y, expected)
    with torch.profiler.profile() as profile:
        got = torch.autograd.grad(y.square().sum(), (x, weight))
    torch.testing.assert_close(got, torch.autograd.grad(expected.square().sum(), (x, weight)))
    # torch's own, of three dimensions, would take ten times as long
    assert "tubelet::depthwise_weight_gradient" in {event.key for event in profile.key_averages()}


_TO_MMACTION = (
    (r"^head\.", "cls_head.fc_cls."),
    (r"\.downsample\.0\.", ".downsample.conv."),
    (r"\.downsample\.1\.", ".downsample.bn."),
    (r"(^|\.)conv(\d)\.(space|mid_bn|time)\.", r"\1conv\2.conv.\3."),
    (r"(^|\.)bn(\d)\.", r"\1conv\2.bn."),
    (r"\.space\.", ".conv_s."),
    (r"\.mid_bn\.", ".bn_s."),
    (r"\.time\.", ".conv_t."),
)


def to_mmaction(state: dict[str, Tensor], rules: tuple[tuple[str, str], ...] = _TO_MMACTION) -> dict[str, Tensor]:
    published = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        published[key if key.startswith("cls_head") else f"backbone.{key}"] = value
    return published


def test_mmactions_layout_gives_equal_logits() -> None:
    theirs, ours = (randomised("r2plus1d_34", **(TINY | MMACTION)) for _ in range(2))
    published = to_mmaction(theirs.state_dict())
    assert published["backbone.conv1.conv.conv_s.weight"].shape[0] == midplanes(3, 4, area=49)
    assert "backbone.layer2.0.downsample.conv.bn_s.weight" in published
    nn.init.zeros_(ours.layer2[0].downsample[0].mid_bn.weight)
    report = load_weights(ours, {"state_dict": published, "meta": {}})
    assert len(report.loaded) == report.total
    with torch.no_grad():
        assert torch.equal(ours(CLIP), theirs(CLIP))


def test_image_weights_are_carried_as_far_as_they_go() -> None:
    image = randomised("resnet_50", width=4, num_classes=5)
    video = create_model("r2plus1d_50", width=4, num_classes=5)
    fresh = video.layer1[0].conv2.space.weight.clone()
    report = load_weights(video, image.state_dict())
    assert torch.equal(video.conv1.weight[:, :, 0], image.conv1.weight)
    assert torch.equal(video.layer3[2].conv3.weight[:, :, 0], image.layer3[2].conv3.weight)
    assert torch.equal(video.layer1[0].conv2.space.weight, fresh)
    assert "no counterpart" in report.dropped["layer1.0.conv2.weight"]
    assert "layer1.0.conv2.time" in report.dropped["layer1.0.conv2.weight"]
    assert {"layer4.2.conv2.space.weight", "layer4.2.conv2.mid_bn.weight"} <= set(report.initialised)
    assert len(report.loaded) + len(report.initialised) >= report.total
    with pytest.raises(WeightsError, match="layers"):
        load_weights(create_model("r2plus1d_18"), image.state_dict())


@pytest.mark.parametrize(
    ("other", "cause"),
    [
        ({"midplanes": "conv"}, "midplanes conv, this model has block"),
        ({"stem_mid": 4}, "stem_mid 4, this model has 3"),
        ({"width": 8}, "width 8, this model has 4"),
        ({"layers": (1, 2, 1, 1)}, r"layers \(1, 2, 1, 1\), this model has \(1, 1, 1, 1\)"),
        ({"factorise_shortcut": True}, "factorise_shortcut True, this model has False"),
    ],
)
def test_another_form_is_named(other: dict, cause: str) -> None:
    with pytest.raises(WeightsError, match=cause):
        load_weights(create_model("r2plus1d_18", **TINY), create_model("r2plus1d_18", **(TINY | other)).state_dict())
