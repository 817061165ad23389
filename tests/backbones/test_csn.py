"""CSN: separated channels, and what of an image network's weights they can use."""

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tubelet.backbones import WeightsError, create_model, load_weights
from tubelet.backbones.lift.separate import Separated, separate_conv

TINY = {"width": 4, "layers": (1, 1, 1, 1), "num_classes": 5}
CLIP = torch.randn(1, 3, 5, 33, 24, generator=torch.Generator().manual_seed(1))
MODES = pytest.mark.parametrize("mode", ["ip", "ir"])


def randomised(name: str, **arguments: object) -> nn.Module:
    model = create_model(name, **(TINY | arguments)).eval()
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(std=0.3, generator=generator)
    return model


def test_each_channel_is_convolved_by_itself() -> None:
    image, x = nn.Conv2d(6, 6, 3, 2, padding=1, bias=False), torch.randn(2, 6, 5, 9, 8)
    depth = separate_conv(image, 3, 2, "ir")
    assert isinstance(depth, nn.Conv3d)
    assert depth.weight.shape == (6, 1, 3, 3, 3)
    expected = torch.cat([F.conv3d(x[:, [c]], depth.weight[[c]], None, 2, 1) for c in range(6)], dim=1)
    torch.testing.assert_close(depth(x), expected, rtol=1e-4, atol=1e-5)


def test_interaction_is_preserved_by_a_product_without_relu() -> None:
    image, x = nn.Conv2d(5, 6, 3, padding=1, bias=False), torch.randn(2, 5, 4, 7, 8)
    both = separate_conv(image, 3, 1, "ip").eval()
    assert isinstance(both, Separated)
    mixed = torch.einsum("bcthw,oc->bothw", x, both.point.weight.flatten(1)) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(both(x), F.conv3d(mixed, both.depth.weight, padding=1, groups=6), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_separated_is_named() -> None:
    with pytest.raises(ValueError, match="mode must be 'ip' or 'ir', got 'ipr'"):
        separate_conv(nn.Conv2d(4, 4, 3), mode="ipr")
    with pytest.raises(ValueError, match="cannot make 6 channels of 4"):
        separate_conv(nn.Conv2d(4, 6, 3), mode="ir")
    with pytest.raises(ValueError, match="'same'"):
        separate_conv(nn.Conv2d(4, 4, 3, padding="same"))
    for arguments in ({"mode": "it"}, {"time_kernel": 2}, {"stem_kernel_t": 0}, {"time_strides": (1, 2)}):
        with pytest.raises(ValueError, match=next(iter(arguments))[:4]):
            create_model("csn_tiny", **arguments)


@MODES
def test_gradients_are_those_of_torchs_own_convolution(mode: str) -> None:
    """The network's own backward pass of its depthwise convolutions changes no gradient."""
    model = create_model("csn_tiny", mode=mode, width=8).double().eval()
    x, gradients = torch.randn(2, 3, 4, 24, 24, dtype=torch.float64), []
    for plain in (False, True):
        for module in model.modules():
            if plain and isinstance(module, nn.Conv3d):
                module._conv_forward = partial(nn.Conv3d._conv_forward, module)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for ours, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-7, atol=1e-10)


@MODES
def test_mmactions_layout_gives_equal_logits(mode: str) -> None:
    theirs, ours = randomised(f"{mode}_csn_50"), create_model(f"{mode}_csn_50", **TINY).eval()
    rules = (
        (r"^head\.", "cls_head.fc_cls."),
        (r"\.downsample\.0\.", ".downsample.conv."),
        (r"\.downsample\.1\.", ".downsample.bn."),
        (r"\.conv2\.(point|depth)\.", r".conv2.\1.conv."),
        (r"\.conv2\.point_bn\.", ".conv2.point.bn."),
        (r"\.conv2\.weight$", ".conv2.depth.conv.weight"),
        (r"(\.\d+)\.bn2\.", r"\1.conv2.depth.bn."),
        (r"(^|\.)bn(\d)\.", r"\1conv\2.bn."),
        (r"(^|\.)conv([13])\.weight$", r"\1conv\2.conv.weight"),
        (r"\.point\.", ".0."),
        (r"\.depth\.", ".1." if mode == "ip" else ".0."),
    )
    published = {}
    for key, value in theirs.state_dict().items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        published[key if key.startswith("cls_head") else f"backbone.{key}"] = value
    report = load_weights(ours, {"state_dict": published})
    assert "MMAction2" in report.layout
    assert len(report.loaded) == report.total
    with torch.no_grad():
        assert torch.equal(ours(CLIP), theirs(CLIP))


@MODES
def test_image_weights_are_carried_as_far_as_they_go(mode: str) -> None:
    image, video = randomised("resnet_50"), create_model(f"{mode}_csn_50", **TINY)
    report = load_weights(video, image.state_dict())
    assert torch.equal(video.layer2[0].conv1.weight[:, :, 0], image.layer2[0].conv1.weight)
    torch.testing.assert_close(video.conv1.weight.sum(dim=2), image.conv1.weight)
    assert torch.equal(video.layer4[0].bn3.running_var, image.layer4[0].bn3.running_var)
    separated = [key for key in image.state_dict() if ".conv2." in key]
    assert all("no counterpart" in report.dropped[key] for key in separated)
    assert set(report.initialised) >= {key for key in video.state_dict() if ".conv2." in key and "batches" not in key}
    assert "left as initialised" in str(report)


def test_the_other_mode_is_named() -> None:
    ip, ir = (create_model(f"{mode}_csn_50", **TINY) for mode in ("ip", "ir"))
    with pytest.raises(WeightsError, match="mode ir, this model has ip"):
        load_weights(ip, ir.state_dict())
    dense = create_model("r3d_50", width=4, layers=(1, 1, 1, 1), num_classes=5, stem_pool=True)
    with pytest.raises(WeightsError, match="its channels are together, this model has ir"):
        load_weights(ir, dense.state_dict())
