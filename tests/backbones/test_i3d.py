"""I3D: TensorFlow's padding, the whole network against a plain one, weights of its publishers and of images."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tubelet.backbones import WeightsError, create_model, load_weights
from tubelet.backbones.image.inception import MaxPool, same_padding

State = dict[str, Tensor]
SMALL = {"width": 4, "num_classes": 5}
BLOCKS = dict(zip(("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"),
                  ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"), strict=True))  # fmt: skip
STEM = {"conv1": "Conv3d_1a_7x7", "conv2": "Conv3d_2b_1x1", "conv3": "Conv3d_2c_3x3"}
SIZES = st.tuples(*[st.integers(1, 9)] * 3)


def random_model(name: str = "i3d", **arguments: object) -> nn.Module:
    model = create_model(name, **(SMALL | arguments)).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(
                    torch.rand_like(value) + 0.5 if key.endswith("running_var") else torch.randn_like(value) * 0.3
                )
    return model


def to_pytorch_i3d(state: State) -> State:
    """Our names under those of pytorch-i3d, the classifier as a convolution."""
    published = {}
    for key, value in state.items():
        for ours, theirs in STEM.items():
            key = re.sub(rf"^{ours}\.", f"{theirs}.", key)
        key = re.sub(r"^inception(\d\w)", lambda found: f"Mixed_{BLOCKS[found[1]]}", key)
        for ours, theirs in (
            ("1", "b0"),
            ("2.0", "b1a"),
            ("2.1", "b1b"),
            ("3.0", "b2a"),
            ("3.1", "b2b"),
            ("4.1", "b3b"),
        ):
            key = key.replace(f".branch{ours}.", f".{theirs}.")
        key = key.replace(".conv.", ".conv3d.").replace("head.", "logits.conv3d.")
        published[key] = value[:, :, None, None, None] if key == "logits.conv3d.weight" else value
    return published


def to_kinetics_i3d_pytorch(state: State) -> State:
    """Our names under those of kinetics_i3d_pytorch, which are converted from TensorFlow's."""
    published = {}
    for key, value in to_pytorch_i3d(state).items():
        key = re.sub(
            r"\.b(\d)([ab]?)\.", lambda found: f".branch_{found[1]}" + {"": ".", "a": ".0.", "b": ".1."}[found[2]], key
        )
        key = key.replace("logits.conv3d", "conv3d_0c_1x1.conv3d").replace(".bn.", ".batch3d.")
        published[key[0].lower() + key[1:]] = value
    return published


def to_sonnet(state: State) -> State:
    """Our names under those of DeepMind's checkpoint, which has no scale in its norms and a slip in block 5b."""
    published = {}
    for key, value in to_pytorch_i3d(state).items():
        if key.endswith((".bn.weight", "num_batches_tracked")):
            continue
        block = re.match(r"Mixed_(\w+)\.b(\d)", key)
        inner = "Conv3d_0a_3x3" if block and block[1] == "5b" and block[2] == "2" else "Conv3d_0b_3x3"
        key = re.sub(r"\.b0\.", "/Branch_0/Conv3d_0a_1x1/", key)
        key = re.sub(r"\.b([12])a\.", r"/Branch_\1/Conv3d_0a_1x1/", key)
        key = re.sub(r"\.b([12])b\.", rf"/Branch_\1/{inner}/", key)
        key = re.sub(r"\.b3b\.", "/Branch_3/Conv3d_0b_1x1/", key)
        key = key.replace("logits.", "Logits/Conv3d_0c_1x1/").replace(".", "/")
        for ours, theirs in (("conv3d/weight", "conv_3d/w"), ("conv3d/bias", "conv_3d/b"),
                             ("bn/bias", "batch_norm/beta"), ("bn/running_mean", "batch_norm/moving_mean"),
                             ("bn/running_var", "batch_norm/moving_variance")):  # fmt: skip
            key = re.sub(f"{ours}$", theirs, key)
        value = value.permute(2, 3, 4, 1, 0) if value.ndim == 5 else value
        published[f"RGB/inception_i3d/{key}"] = value.view(1, 1, 1, 1, -1) if "batch_norm" in key else value
    return published


def plain_i3d(state: State, clip: Tensor) -> Tensor:
    """The network in a plain form: every padding explicit, every layer by name."""

    def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        pads = []
        for n, k, s in zip(x.shape[2:], kernel, stride, strict=True):
            total = max(k - s, 0) if n % s == 0 else max(k - n % s, 0)
            pads = [total // 2, total - total // 2, *pads]
        return F.pad(x, pads)

    def unit(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, strides = state[f"{name}.conv.weight"], (stride,) * 3
        y = F.conv3d(padded(x, weight.shape[2:], strides), weight, stride=strides)
        mean, var = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
        return F.relu(F.batch_norm(y, mean, var, state[f"{name}.bn.weight"], state[f"{name}.bn.bias"], eps=1e-3))

    def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(padded(x, kernel, stride), kernel, stride)  # nothing is below zero here

    def block(name: str, x: Tensor) -> Tensor:
        name = f"inception{name}.branch"
        two, three = (unit(f"{name}{i}.1", unit(f"{name}{i}.0", x)) for i in (2, 3))
        return torch.cat([unit(f"{name}1", x), two, three, unit(f"{name}4.1", pool(x, (3, 3, 3), (1, 1, 1)))], 1)

    x = pool(unit("conv1", clip, 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit("conv3", unit("conv2", x)), (1, 3, 3), (1, 2, 2))
    for name in BLOCKS:
        if name == "4a":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if name == "5a":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        x = block(name, x)
    x = F.avg_pool3d(x, [min(k, n) for k, n in zip((2, 7, 7), x.shape[2:], strict=True)], 1)
    logits = F.conv3d(x, state["head.weight"][:, :, None, None, None], state["head.bias"])
    return logits.mean((2, 3, 4))


@given(SIZES, SIZES, st.tuples(*[st.integers(1, 3)] * 3))
def test_same_padding_is_tensorflows(sizes: tuple, kernel: tuple, stride: tuple) -> None:
    for n, k, s, (before, after) in zip(sizes, kernel, stride, same_padding(sizes, kernel, stride), strict=True):
        assert 0 <= after - before <= 1
        assert (n + before + after - k) // s + 1 == math.ceil(n / s) or k < s
        assert before + after == (max(k - s, 0) if n % s == 0 else max(k - n % s, 0))


@settings(deadline=None, max_examples=60)
@given(
    SIZES,
    st.sampled_from([((3, 3, 3), (1, 1, 1)), ((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))]),
)
def test_pools_need_no_padded_copy(sizes: tuple, window: tuple) -> None:
    kernel, stride = window
    x = torch.randn(1, 2, *sizes)
    pads = [n for pair in reversed(same_padding(sizes, kernel, stride)) for n in pair]
    expected = F.max_pool3d(F.pad(x, pads, value=-math.inf), kernel, stride)
    pool = MaxPool(kernel, stride, "same")
    with torch.no_grad():
        assert torch.equal(pool(x), expected)
    assert torch.equal(pool(x), expected)


@given(st.tuples(*[st.integers(3, 12)] * 2), st.sampled_from([((3, 3), (1, 1)), ((3, 3), (2, 2)), ((2, 2), (2, 2))]))
def test_pools_are_torchs_with_and_without_gradients(sizes: tuple, window: tuple) -> None:
    pool, x = MaxPool(*window), torch.randn(2, 3, *sizes)
    with torch.no_grad():
        values = pool(x)
    assert torch.equal(values, pool(x))
    assert torch.equal(values, F.max_pool2d(x, *window, padding=pool.edges(sizes), ceil_mode=True))


@pytest.mark.parametrize("shape", [(16, 48, 64), (9, 45, 33), (5, 31, 30), (1, 1, 1), (33, 24, 20), (2, 8, 260)])
def test_it_computes_what_a_plain_network_does(shape: tuple[int, int, int]) -> None:
    model = random_model().double()
    clip = torch.randn(1, 3, *shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), plain_i3d(model.state_dict(), clip), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("publish", [dict, to_pytorch_i3d, to_kinetics_i3d_pytorch, to_sonnet])
def test_published_layouts_give_equal_logits(publish) -> None:
    theirs, ours = random_model(), random_model()
    if publish is to_sonnet:
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm3d):
                nn.init.ones_(module.weight)
    report = load_weights(ours, publish(theirs.state_dict()))
    assert [report.dropped, report.initialised, report.inflated] == [{}, [], {}]
    clip = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(clip), theirs(clip))


def test_a_still_video_is_its_image_when_inflated_at_the_centre() -> None:
    image, video = random_model("googlenet", padding="same"), random_model(inflation="centre", num_classes=5)
    aux = {"aux1.fc1.weight": torch.zeros(2, 2), "aux2.conv.bn.bias": torch.zeros(2)}
    published = {key.replace("head.", "fc."): value for key, value in image.state_dict().items()} | aux
    report = load_weights(video, published)
    assert len(report.inflated) == 57
    assert report.inflated["inception3a.branch3.1.conv.weight"] == "centre over 3 frames"
    assert report.dropped == dict.fromkeys(aux, "auxiliary classifiers only serve training")
    picture = torch.randn(1, 3, 75, 64)
    clip = picture.unsqueeze(2).expand(-1, -1, 13, -1, -1)
    with torch.no_grad():
        features, expected = video.forward_features(clip), image.forward_features(picture)
        torch.testing.assert_close(features, expected.unsqueeze(2).expand_as(features), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(video(clip), image(picture), rtol=1e-3, atol=1e-4)


def test_a_still_video_is_its_image_inside_when_inflated_by_the_mean() -> None:
    image, video = random_model("googlenet", padding="same"), random_model()
    load_weights(video, image.state_dict())
    picture = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        still = video.conv1(picture.unsqueeze(2).expand(-1, -1, 16, -1, -1))
        expected = image.conv1(picture)
    for moment in range(still.shape[2]):
        inside = 2 * moment - 2 >= 0 and 2 * moment + 4 < 16
        assert torch.allclose(still[:, :, moment], expected, rtol=1e-4, atol=1e-5) == inside


def test_time_is_not_symmetric_at_the_start() -> None:
    kernel = create_model("i3d", width=4).conv1.conv.weight
    assert not torch.allclose(kernel[:, :, 0], kernel[:, :, 1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"padding": "valid"}, "padding must be 'symmetric' or 'same', got 'valid'"),
        ({"large_kernel": 4}, "large_kernel must be 3 or 5, got 4"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"stem_time": (2, 2)}, "stem_time must be an odd kernel and a stride"),
        ({"pool_times": (1, 2)}, "pool_times must be four pairs"),
        ({"pool_times": ((1, 1),)}, "pool_times must be four pairs"),
        ({"pool_times": ((2, 1), (1, 1), (3, 2), (2, 2))}, "must have an odd kernel"),
        ({"avg_pool": (2, 0, 1)}, "avg_pool must be a window"),
        ({"inflation": "copy"}, "inflation must be 'mean' or 'centre'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        create_model("i3d", **(SMALL | arguments))


def test_the_papers_larger_kernel_and_other_times_are_arguments() -> None:
    wide = random_model(
        large_kernel=5, stem_time=[3, 1], pool_times=[[1, 1], [3, 2], [1, 1], [1, 1]], padding="symmetric"
    )
    assert wide.inception4a.branch3[1].conv.kernel_size == (5, 5, 5)
    with torch.no_grad():
        assert wide.forward_features(torch.randn(1, 3, 6, 32, 32)).shape[2:] == (3, 1, 1)
    with pytest.raises(WeightsError, match="large_kernel 5, this model has 3"):
        load_weights(random_model(), wide.state_dict())
    with pytest.raises(WeightsError, match="width 16, this model has 4"):
        load_weights(random_model(), random_model(width=16).state_dict())
