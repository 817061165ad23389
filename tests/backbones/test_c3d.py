"""C3D: the whole network against a plain one, weights of its publishers and of VGG-11."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.backbones import WeightsError, create_model, load_weights

State = dict[str, Tensor]
SMALL = {"width": 4, "hidden": 16, "num_classes": 5, "size": 48}
PLAIN = dict(zip((0, 3, 6, 8, 11, 13, 16, 18), ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b"), strict=True))
NORMED = dict(zip((0, 4, 8, 11, 15, 18, 22, 25), PLAIN.values(), strict=True))


def random_model(name: str = "c3d", **arguments: object) -> nn.Module:
    model = create_model(name, **(SMALL | arguments)).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(
                    torch.rand_like(value) + 0.5 if key.endswith("running_var") else torch.randn_like(value) * 0.3
                )
    return model


def to_mmaction(state: State) -> State:
    places = NORMED if any("running" in key for key in state) else PLAIN
    published = {}
    for key, value in state.items():
        if found := re.match(r"features\.(\d+)\.(.*)", key):
            i = int(found[1])
            key = f"conv{places[i]}.conv.{found[2]}" if i in places else f"conv{places[i - 1]}.bn.{found[2]}"
        key = key.replace("classifier.0", "fc6").replace("classifier.3", "fc7")
        published["cls_head.fc_cls." + key[5:] if key.startswith("head.") else f"backbone.{key}"] = value
    return published


def to_port(state: State) -> State:
    published = {}
    for key, value in to_mmaction(state).items():
        key = key.removeprefix("backbone.").replace(".conv.", ".").replace("cls_head.fc_cls", "fc8")
        published[re.sub(r"^conv([12])a", r"conv\1", key)] = value
    return published


def plain_c3d(state: State, clip: Tensor) -> Tensor:
    x = clip
    for i, name in PLAIN.items():
        x = F.relu(F.conv3d(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1))
        if name == "1a":
            x = F.max_pool3d(x, (1, 2, 2))
        elif name in ("2a", "3b", "4b"):
            x = F.max_pool3d(x, 2)
    x = F.max_pool3d(x, 2, padding=(0, 1, 1)).reshape(len(clip), -1)
    for name in ("classifier.0", "classifier.3"):
        x = F.relu(F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"]))
    return F.linear(x, state["head.weight"], state["head.bias"])


@pytest.mark.parametrize(("frames", "size"), [(16, 48), (20, 35), (33, 16)])
def test_it_computes_what_a_plain_network_does(frames: int, size: int) -> None:
    model = random_model(frames=frames, size=size).double()
    clip = torch.randn(2, 3, frames, size, size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), plain_c3d(model.state_dict(), clip), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("publish", "bn"), [(dict, False), (dict, True), (to_mmaction, False), (to_mmaction, True), (to_port, False)]
)
def test_published_layouts_give_equal_logits(publish, bn: bool) -> None:
    theirs, ours = random_model(bn=bn), random_model(bn=bn)
    report = load_weights(ours, publish(theirs.state_dict()))
    assert [report.dropped, report.initialised, report.inflated, report.notes] == [{}, [], {}, []]
    clip = torch.randn(1, 3, 16, 48, 48)
    with torch.no_grad():
        assert torch.equal(ours(clip), theirs(clip))


def test_convolutions_before_a_norm_may_have_no_bias() -> None:
    theirs, ours = random_model(bn=True), random_model(bn=True)
    for i in NORMED:
        nn.init.zeros_(theirs.features[i].bias)
    published = {key: value for key, value in to_mmaction(theirs.state_dict()).items() if not key.endswith("conv.bias")}
    report = load_weights(ours, published)
    assert report.notes == ["its convolutions have no bias before their norms; ours were set to zero"]
    assert len(report.loaded) == report.total
    clip = torch.randn(1, 3, 16, 48, 48)
    with torch.no_grad():
        assert torch.equal(ours(clip), theirs(clip))


@pytest.mark.parametrize("bn", [False, True])
def test_a_still_video_is_its_image_when_inflated_at_the_centre(bn: bool) -> None:
    image = random_model("vgg11", bn=bn, size=64)
    video = random_model(bn=bn, size=64, last_padding=0, inflation="centre")
    published = {key.replace("head.", "classifier.6."): value for key, value in image.state_dict().items()}
    report = load_weights(video, published)
    assert len(report.inflated) == 8
    assert report.dropped["classifier.0.weight"] == "belongs to the fully connected layers, which saw a whole image"
    assert set(report.initialised) == {f"classifier.{i}.{part}" for i in (0, 3) for part in ("weight", "bias")}
    picture = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        features = video.double().forward_features(picture.unsqueeze(2).expand(-1, -1, 16, -1, -1))
        expected = image.double().forward_features(picture).unsqueeze(2)
        torch.testing.assert_close(features, expected.expand_as(features), rtol=1e-9, atol=1e-9)


def test_timm_writes_vggs_full_layers_as_convolutions() -> None:
    theirs, ours = random_model("vgg11", size=64), random_model("vgg11", size=64)
    published = {}
    for key, value in theirs.state_dict().items():
        if key == "classifier.0.weight":
            value = value.unflatten(1, (32, 7, 7))
        elif key == "classifier.3.weight":
            value = value[:, :, None, None]
        for old, new in (("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2"), ("head", "head.fc")):
            key = re.sub(rf"^{old}\.", f"{new}.", key)
        published[key] = value
    assert len(load_weights(ours, published).loaded) == len(ours.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_another_clip_than_built_is_refused_with_the_cause() -> None:
    model = random_model()
    for shape in ((1, 3, 8, 48, 48), (1, 3, 16, 48, 64)):
        with pytest.raises(ValueError, match="built for clips of 16 frames of 48 x 48 pixels"):
            model(torch.randn(shape))
    with pytest.raises(WeightsError, match="positions"):
        load_weights(model, random_model(frames=32).state_dict())
    with pytest.raises(WeightsError, match="hidden 8, this model has 16"):
        load_weights(model, random_model(hidden=8).state_dict())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"frames": 8}, "nothing is left of 8 frames"),
        ({"size": 8, "last_padding": 0}, "nothing is left of 16 frames of 8 pixels"),
        ({"pool_times": (1, 2)}, "pool_times must be five"),
        ({"last_padding": 2}, "last_padding must be 0 or 1, got 2"),
        ({"inflation": "copy"}, "inflation must be 'mean' or 'centre'"),
        ({"hidden": 0}, "at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        create_model("c3d", **(SMALL | arguments))
