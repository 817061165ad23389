"""Inflation and the walk that lifts: the arithmetic, any image network of torchvision or timm, and a still video."""

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tubelet.backbones.lift.conv import Conv3d
from tubelet.backbones.lift.inflate import TimeSpec, inflate_conv, inflate_weight, inflation
from tubelet.backbones.lift.walk import first_of, lift


def randomised(network: nn.Module) -> nn.Module:
    """No weight or statistic zero or one, and activations of the size of the input, in float64."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval().double()


def still(image: Tensor, frames: int) -> Tensor:
    return image.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def test_weights_are_shared_among_frames_or_given_to_the_centre() -> None:
    weight = torch.randn(4, 3, 5, 5)
    assert torch.allclose(inflate_weight(weight, 3).sum(2), weight)
    assert torch.equal(inflate_weight(weight, 4, "centre")[:, :, 2], weight)
    assert torch.equal(inflate_weight(weight, 4, "centre").sum(2), weight)
    with pytest.raises(ValueError, match="'mean' or 'centre', got 'center'"):
        inflate_weight(weight, 3, "center")


@st.composite
def convolutions(draw: st.DrawFn) -> dict:
    groups = draw(st.sampled_from([1, 2, 4]))
    kernel = tuple(draw(st.lists(st.integers(1, 3), min_size=3, max_size=3)))
    return {
        "in_channels": 4, "out_channels": 4 * draw(st.integers(1, 2)), "kernel_size": kernel, "groups": groups,
        "stride": tuple(draw(st.lists(st.integers(1, 2), min_size=3, max_size=3))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "dilation": tuple(draw(st.integers(1, 2)) for _ in range(3)), "bias": draw(st.booleans()),
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(arguments=convolutions(), batch=st.integers(1, 2), folded=st.booleans(), data=st.data())
def test_convolutions_are_torchs(arguments: dict, batch: int, folded: bool, data: st.DataObject) -> None:
    """Output and every gradient, whatever path the shape takes and however the input lies in memory."""
    size = [
        1 + d * (k - 1) + data.draw(st.integers(0, 4))
        for k, d in zip(arguments["kernel_size"], arguments["dilation"], strict=True)
    ]
    ours = Conv3d(**arguments, dtype=torch.float64)
    theirs = nn.Conv3d(**arguments, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(batch, 4, *size, dtype=torch.float64)
    if folded:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    results = []
    for conv in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = conv(leaf)
        y.square().sum().backward()
        results.append([y, leaf.grad, *(p.grad for p in conv.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@settings(max_examples=30, deadline=None)
@given(
    t=st.integers(1, 5), stride=st.integers(1, 2), kernel=st.sampled_from([1, 2, 3]), groups=st.sampled_from([1, 2]),
    padding=st.sampled_from([0, 1, "same"]), how=st.sampled_from(["mean", "centre"]), bias=st.booleans(),
)  # fmt: skip
def test_an_inflated_convolution_sees_a_still_clip_as_its_image(t, stride, kernel, groups, padding, how, bias) -> None:
    if padding == "same" and (stride > 1 or kernel == 2):
        return
    conv = nn.Conv2d(4, 6, kernel, stride, padding, groups=groups, bias=bias).double()
    image = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    y = inflate_conv(conv, t, how=how)(still(image, 9))
    inside = slice(None) if how == "centre" else slice(t // 2, 9 - t // 2)
    assert y.shape[2] == 9 + (t % 2 == 0)
    expected = still(conv(image), y.shape[2])[:, :, inside]
    if how == "centre" and t % 2 == 0:
        return  # an even kernel has one more frame out than in, at the end, which its centre does not see
    torch.testing.assert_close(y[:, :, inside], expected)


def test_schedules_are_patterns_numbers_or_a_function() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.AvgPool2d(2), nn.Dropout2d())
    lift(network, inflation({"0": TimeSpec(3, 2, 0), "1": 2, "*": TimeSpec(1, 2)}))
    assert (network[0].kernel_size, network[0].stride, network[0].padding) == ((3, 3, 3), (2, 1, 1), (0, 0, 0))
    assert (network[1].kernel_size, network[1].stride, network[1].padding) == ((2, 2, 2), (1, 2, 2), (1, 0, 0))
    assert network[2].stride == (2, 1, 1)
    assert network[3].stride == (2, 2, 2)
    again = nn.Sequential(nn.Conv2d(3, 4, 3))
    lift(again, inflation(lambda name, conv: TimeSpec(conv.out_channels + 1 if name == "0" else 1)))
    assert again[0].kernel_size == (5, 3, 3)


def test_the_walk_reports_what_became_of_each_tensor() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 3, bias=False)))
    kernel = network[0].weight.detach().clone()

    def separate(name: str, module: nn.Module) -> nn.Module | None:
        return nn.Conv3d(4, 4, 3, groups=4, bias=False) if name == "2.0" else None

    report = lift(network, first_of(separate, inflation({})))
    assert report.carried == ["0.weight", "0.bias", *(f"1.{key}" for key in network[1].state_dict())]
    assert report.created == ["2.0.weight"]
    assert report.unused == ["2.0.weight"]
    assert torch.equal(network[0].weight.squeeze(2), kernel)


def test_shared_modules_stay_shared_and_modes_are_kept() -> None:
    conv = nn.Conv2d(3, 3, 1).eval()
    conv.weight.requires_grad_(False)
    network = nn.ModuleDict({"a": conv, "b": nn.Sequential(conv)})
    lift(network, inflation({}))
    assert network["a"] is network["b"][0]
    assert not network["a"].training
    assert not network["a"].weight.requires_grad


def test_a_layer_of_unknown_forward_is_named() -> None:
    class Odd(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    with pytest.raises(TypeError, match="stem is a Odd, whose forward inflation does not know"):
        lift(nn.ModuleDict({"stem": Odd(3, 4, 1)}), inflation({}))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "regnet_x_400mf"])
def test_any_torchvision_network_sees_a_still_clip_as_its_image(name: str) -> None:
    network = randomised(torchvision.models.get_model(name, num_classes=7))
    image = torch.randn(2, 3, 35, 40, dtype=torch.float64)
    with torch.no_grad():
        expected = network(image)
        report = lift(network, inflation({"*": 3}, "centre"))
        torch.testing.assert_close(network(still(image, 3)), expected, rtol=1e-9, atol=1e-9)
        assert network(torch.randn(1, 3, 4, 32, 32, dtype=torch.float64)).shape == (1, 7)
    assert not report.created
    assert not report.unused


@pytest.mark.parametrize("name", ["resnet26d", "regnetx_002"])
def test_any_timm_network_sees_a_still_clip_as_its_image(name: str) -> None:
    network = randomised(timm.create_model(name, num_classes=7))
    image = torch.randn(2, 3, 35, 40, dtype=torch.float64)
    with torch.no_grad():
        expected = network(image)
        lift(network, inflation({"*": 3}, "centre"))
        torch.testing.assert_close(network(still(image, 3)), expected, rtol=1e-9, atol=1e-9)


def test_mean_inflation_is_the_image_network_on_interior_frames() -> None:
    """Two layers of three frames see two frames to each side: frames 2 and 3 of six see no padding."""
    network = randomised(torchvision.models.resnet18())
    features: list[Tensor] = []
    network.layer4.register_forward_hook(lambda module, inputs, output: features.append(output))
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        network(image)
        lift(network, inflation({"conv1": 3, "layer1.0.conv1": 3}, "mean"))
        network(still(image, 6))
    for frame in (2, 3):
        torch.testing.assert_close(features[1][:, :, frame], features[0])
    assert not torch.allclose(features[1][:, :, 1], features[0])
