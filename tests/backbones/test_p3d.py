"""P3D: both forms against the formulas written out, and its weights."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.backbones import WeightsError, create_model, load_weights
from tubelet.backbones.lift.pseudo3d import pseudo3d_conv

TINY = {"width": 4, "layers": (1, 2, 2, 1), "num_classes": 5}
CLIP = torch.randn(1, 3, 16, 37, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FORMS = pytest.mark.parametrize("form", ["caffe", "port"])
State = dict[str, Tensor]


def randomised(name: str = "p3d_199", **arguments: object) -> nn.Module:
    model = create_model(name, **(TINY | arguments)).eval()
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(std=0.3, generator=generator)
    return model.double()


def to_port(state: State) -> State:
    """Under the port's names, the last stage two-dimensional."""
    rules = (
        (r"^conv1\.", "conv1_custom."),
        (r"^head\.", "fc."),
        (r"(\.\d+)\.conv3\.", r"\1.conv4."),
        (r"(\.\d+)\.bn3\.", r"\1.bn4."),
        (r"\.conv2\.space\.", ".conv2."),
        (r"\.conv2\.space_bn\.", ".bn2."),
        (r"\.conv2\.time\.", ".conv3."),
        (r"\.conv2\.time_bn\.", ".bn3."),
        (r"(layer4\.\d+)\.conv2\.", r"\1.conv_normal."),
        (r"(layer4\.\d+)\.bn2\.", r"\1.bn_normal."),
    )
    published = {}
    for key, value in state.items():
        flat = key.startswith("layer4.") and value.ndim == 5
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        published[key] = value.squeeze(2) if flat else value
    return published


def written_out(state: State, x: Tensor, form: str, layers: tuple[int, ...]) -> Tensor:
    """The network of the port's names, each step as the released graph or the port has it."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        padding = [k // 2 for k in weight.shape[2:]]
        strides = (1, stride, stride)[-len(padding) :]
        return (F.conv3d if weight.ndim == 5 else F.conv2d)(x, weight, None, strides, padding)

    def time_pool(x: Tensor) -> Tensor:
        return F.max_pool3d(x, (2, 1, 1), ceil_mode=form == "caffe")

    relu, number = torch.relu, 0
    x = relu(norm(conv(x, "conv1_custom", 2), "bn1"))
    x = F.max_pool3d(x, (2, 3, 3), 2, ceil_mode=True) if form == "caffe" else F.max_pool3d(x, (2, 3, 3), 2, (0, 1, 1))
    for stage, depth in enumerate(layers, 1):
        if stage == 4:
            x = x.transpose(1, 2).flatten(0, 1)
        for i in range(depth):
            at, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = relu(norm(conv(x, f"{at}.conv1", stride), f"{at}.bn1"))
            if stage == 4:
                y = relu(norm(conv(y, f"{at}.conv_normal"), f"{at}.bn_normal"))
            else:
                s = relu(norm(conv(y, f"{at}.conv2"), f"{at}.bn2"))
                kind = "ABC"[number % 3]
                t = norm(conv(y if kind == "B" else s, f"{at}.conv3"), f"{at}.bn3")
                if form == "caffe":
                    y = relu(t) if kind == "A" else relu(s + t)
                else:
                    y = relu(t) if kind == "A" else s + relu(t)
                number += 1
            y = norm(conv(y, f"{at}.conv4"), f"{at}.bn4")
            if f"{at}.downsample.0.weight" in state:
                x = norm(conv(x, f"{at}.downsample.0", stride), f"{at}.downsample.1")
            x = relu(x + y)
        if stage < 4:
            x = time_pool(x)
    return x.mean(dim=(2, 3)).mean(dim=0, keepdim=True) @ state["fc.weight"].T + state["fc.bias"]


@FORMS
def test_both_forms_are_the_formulas_written_out(form: str) -> None:
    model = randomised(form=form)
    for clip in (CLIP, CLIP[:, :, :11, :23, :32] if form == "caffe" else CLIP[:, :, :, :29]):
        with torch.no_grad():
            expected = written_out(to_port(model.state_dict()), clip, form, TINY["layers"])
            torch.testing.assert_close(model(clip), expected, rtol=1e-10, atol=1e-12)


@FORMS
def test_the_ports_layout_gives_equal_logits(form: str) -> None:
    theirs, ours = randomised(form=form), create_model("p3d_199", form=form, **TINY).eval().double()
    report = load_weights(ours, {"state_dict": to_port(theirs.state_dict())})
    assert len(report.loaded) == report.total
    with torch.no_grad():
        assert torch.equal(ours(CLIP), theirs(CLIP))
    assert load_weights(ours, theirs.state_dict()).layout == "P3D"


def test_forms_differ_and_halving_c_is_halving_the_weights_after_it() -> None:
    model, half = randomised(), randomised(c_scale=0.5)
    load_weights(half, model.state_dict())
    with torch.no_grad():
        assert not torch.allclose(model(CLIP), half(CLIP))
        for block in model.blocks():
            if getattr(block.conv2, "kind", None) == "C":
                block.conv3.weight /= 2
        torch.testing.assert_close(model(CLIP), half(CLIP))


def test_blocks_take_turns_across_stages() -> None:
    model = create_model("p3d_199", **TINY)
    assert [block.conv2.kind for block in model.blocks()[:5]] == list("ABCAB")
    assert all(
        conv.stride == (1, 1, 1) for block in model.blocks() for conv in [getattr(block.conv2, "space", block.conv2)]
    )
    assert model.layer3[0].conv1.stride == model.layer3[0].downsample[0].stride == (1, 2, 2)
    only_a = create_model("p3d_199", **TINY, kinds=["A"])
    assert {block.conv2.kind for block in only_a.blocks()[:5]} == {"A"}


def test_image_weights_become_those_over_space() -> None:
    image, video = randomised("resnet_50"), randomised()
    time = video.layer1[0].conv2.time.weight.clone()
    report = load_weights(video, image.state_dict())
    assert torch.equal(video.layer2[1].conv2.space.weight[:, :, 0], image.layer2[1].conv2.weight)
    assert torch.equal(video.layer2[1].conv2.space_bn.running_mean, image.layer2[1].bn2.running_mean)
    assert torch.equal(video.layer4[0].conv2.weight[:, :, 0], image.layer4[0].conv2.weight)
    assert torch.equal(video.layer1[0].conv2.time.weight, time)
    assert not report.dropped
    new = [key for key in video.state_dict() if ".time" in key]
    assert set(report.initialised) == set(new)
    assert len(report.loaded) == report.total - len(new)


def test_any_clip_for_the_released_form_sixteen_frames_for_the_port() -> None:
    released, port = create_model("p3d_199", **TINY).eval(), create_model("p3d_199", form="port", **TINY).eval()
    for shape in ((1, 3, 3), (3, 7, 5), (9, 48, 33), (33, 16, 16)):
        assert released(torch.randn(1, 3, *shape)).shape == (1, 5)
    with pytest.raises(ValueError, match="T of at least 16"):
        port(torch.randn(1, 3, 15, 32, 32))
    assert port(torch.randn(1, 3, 35, 9, 16)).shape == (1, 5)


def test_bad_arguments_and_weights_are_named() -> None:
    for arguments in ({"form": "tf"}, {"kinds": "ABD"}, {"kinds": ""}, {"time_kernel": 4}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            create_model("p3d_tiny", **arguments)
    with pytest.raises(ValueError, match="its stride must lie elsewhere"):
        pseudo3d_conv(nn.Conv2d(4, 4, 3, 2, padding=1), nn.BatchNorm2d(4), "A")
    with pytest.raises(ValueError, match="is 'A', 'B' or 'C', got 'D'"):
        pseudo3d_conv(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), "D")
    with pytest.raises(WeightsError, match=r"layers \(1, 1, 1, 1\), this model has \(1, 2, 2, 1\)"):
        load_weights(
            create_model("p3d_199", **TINY), create_model("p3d_199", **(TINY | {"layers": (1, 1, 1, 1)})).state_dict()
        )
