"""Image and video ResNets: published names, image weights given time, schedules, and what a wrong file is told."""

import re

import pytest
import torch
from torch import Tensor, nn

from tubelet.backbones import WeightsError, create_model, load_weights
from tubelet.backbones.resnet3d import block_schedule

State = dict[str, Tensor]
NARROW = {"num_classes": 5, "width": 8, "layers": (2, 1, 1, 1)}


def narrow(name: str, **arguments: object) -> nn.Module:
    """A narrow network in evaluation, float64, with no weight or statistic zero or one."""
    model = create_model(name, **(NARROW | arguments))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval().double()


def run(model: nn.Module, *shape: int) -> Tensor:
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return model(x)


def rename(state: State, *rules: tuple[str, str]) -> State:
    for pattern, replacement in rules:
        state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    return state


def to_torchvision_video(state: State) -> State:
    return rename(
        state, (r"^conv1\.", "stem.0."), (r"^bn1\.", "stem.1."), (r"\.conv(\d)\.", r".conv\1.0."),
        (r"\.bn(\d)\.", r".conv\1.1."), (r"^head\.", "fc."),
    )  # fmt: skip


def to_mmaction(state: State) -> dict[str, State]:
    renamed = rename(
        state, (r"(^|\.)conv(\d)\.", r"\1conv\2.conv."), (r"(^|\.)bn(\d)\.", r"\1conv\2.bn."),
        (r"downsample\.0", "downsample.conv"), (r"downsample\.1", "downsample.bn"), (r"^(?!head)", "backbone."),
        (r"^head\.", "cls_head.fc_cls."),
    )  # fmt: skip
    return {"state_dict": renamed}


def to_slowfast(state: State) -> dict[str, State]:
    for i, letter in enumerate("abc", 1):
        state = rename(state, (rf"\.conv{i}\.", f".branch2.{letter}."), (rf"\.bn{i}\.", f".branch2.{letter}_bn."))
    for i in range(4, 0, -1):
        state = rename(state, (rf"^layer{i}\.(\d+)", rf"s{i + 1}.pathway0_res\1"))
    state = rename(
        state, (r"^conv1\.", "s1.pathway0_stem.conv."), (r"^bn1\.", "s1.pathway0_stem.bn."),
        (r"downsample\.0", "branch1"), (r"downsample\.1", "branch1_bn"), (r"^head\.", "head.projection."),
    )  # fmt: skip
    return {"model_state": state}


def to_huggingface(state: State) -> State:
    for i in range(4):
        state = rename(state, (rf"^layer{i + 1}\.", f"encoder.stages.{i}.layers."))
    for i in range(3):
        state = rename(state, (rf"\.conv{i + 1}\.", f".layer.{i}.convolution."))
        state = rename(state, (rf"\.bn{i + 1}\.", f".layer.{i}.normalization."))
    return rename(
        state, (r"^conv1\.", "embedder.embedder.convolution."), (r"^bn1\.", "embedder.embedder.normalization."),
        (r"downsample\.0", "shortcut.convolution"), (r"downsample\.1", "shortcut.normalization"),
        (r"^(?!head)", "resnet."), (r"^head\.", "classifier.1."),
    )  # fmt: skip


def to_torchvision(state: State) -> State:
    return rename(state, (r"^head\.", "fc."))


def to_cbam(state: State) -> State:
    rules = (r"\.channel\.", ".ChannelGate."), (r"cbam\.spatial\.", "cbam.SpatialGate.spatial.")
    return {f"module.{key}": value for key, value in rename(state, *rules, (r"^head\.", "fc.")).items()}


@pytest.mark.parametrize(
    ("name", "publish"),
    [
        ("r3d_18", to_torchvision_video), ("r3d_50", to_torchvision_video), ("i3d_r50", to_mmaction),
        ("slow_r50", to_slowfast), ("r3d_18", to_slowfast), ("r3d_50_hara", to_torchvision),
        ("resnet_18", to_torchvision), ("resnet_50", to_huggingface),
        ("cbam_resnet_50", to_cbam), ("se_resnet_50", to_torchvision),
    ],
)  # fmt: skip
def test_published_names_give_equal_logits(name: str, publish) -> None:
    theirs, ours = narrow(name), narrow(name)
    state = theirs.state_dict()
    for published in (publish(state), {key: value for key, value in state.items() if "num_batches" not in key}):
        report = load_weights(ours, published)
        assert (report.dropped, report.initialised, report.inflated) == ({}, [], {})
        shape = (4, 32, 32) if "T" in ours.axes else (32, 32)
        assert torch.equal(run(ours, *shape), run(theirs, *shape))


@pytest.mark.parametrize("publish", [to_torchvision, to_huggingface])
@pytest.mark.parametrize(
    ("name", "image", "arguments"),
    [
        ("i3d_r50", "resnet_50", {}), ("slow_r50", "resnet_50", {}), ("r3d_50_hara", "resnet_50", {}),
        ("r3d_18", "resnet_18", {"stem_pool": True}), ("mc3_18", "resnet_18", {"stem_pool": True}),
        ("r3d_50", "resnext_50_32x4d", {"stem_pool": True, "groups": 2, "width_per_group": 32}),
        ("i3d_r50", "se_resnet_50", {"attention": "se"}), ("i3d_r50", "cbam_resnet_50", {"attention": "cbam"}),
    ],
)  # fmt: skip
def test_image_weights_see_a_still_clip_as_its_image(name: str, image: str, arguments: dict, publish) -> None:
    shape = {key: value for key, value in arguments.items() if key in ("groups", "width_per_group")}
    network, video = narrow(image, **shape), narrow(name, inflation="centre", **arguments)
    report = load_weights(video, publish(network.state_dict()))
    still = torch.randn(1, 3, 34, 30, dtype=torch.float64)
    with torch.no_grad():
        clip = still.unsqueeze(2).expand(-1, -1, 5, -1, -1)
        torch.testing.assert_close(video(clip), network(still), rtol=1e-9, atol=1e-9)
    assert set(report.loaded) == set(video.state_dict())
    assert (report.dropped, report.initialised) == ({}, [])
    assert set(report.inflated) == {key for key, value in video.state_dict().items() if value.ndim == 5}


def test_mean_inflation_shares_a_kernel_among_its_frames() -> None:
    network, video = narrow("resnet_50"), narrow("i3d_r50")
    report = load_weights(video, network.state_dict())
    assert torch.allclose(video.conv1.weight.sum(2), network.conv1.weight)
    assert torch.equal(video.conv1.weight[:, :, 0], video.conv1.weight[:, :, 4])
    assert report.inflated["conv1.weight"] == "mean over 5 frames"
    assert report.inflated["layer4.0.conv1.weight"] == "one frame, as it stands"
    assert "inflated: conv1.weight (mean over 5 frames)" in str(report)


def test_what_a_shortcut_without_parameters_cannot_use_is_dropped() -> None:
    video = narrow("r3d_18_hara", shortcut="zero")
    report = load_weights(video, narrow("resnet_18").state_dict())
    assert report.dropped["layer2.0.downsample.0.weight"].endswith("here it is a shortcut without parameters")
    assert report.dropped["layer2.0.downsample.1.bias"].startswith("belongs to layer2.0.downsample.0.weight")
    assert set(report.loaded) == set(video.state_dict())


def test_an_image_classifier_is_dropped() -> None:
    report = load_weights(narrow("i3d_r50"), narrow("resnet_50", num_classes=9).state_dict())
    assert report.dropped == dict.fromkeys(("head.weight", "head.bias"), "9 classes, this model has 5")
    assert report.initialised == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("other", "arguments", "cause"),
    [
        ("i3d_r50", {"layers": (1, 2, 1, 1)}, r"layers \(1, 2, 1, 1\), this model has \(2, 1, 1, 1\)"),
        ("i3d_r50", {"width": 16}, "width 16, this model has 8"),
        ("slow_r50", {}, "stem_kernel_t 1, this model has 5"),
        ("i3d_r50", {"time_kernels": (1, 1, 1, 1)}, r"layer1 conv1 \(1, 1\), this model has \(3, 3\)"),
        ("r3d_18", {}, "block basic, this model has bottleneck"),
        ("i3d_r50", {"attention": "se"}, "attention se, this model has None"),
        ("i3d_r50", {"groups": 2, "width_per_group": 32}, "groups 2, this model has 1"),
    ],
)
def test_another_architecture_is_named(other: str, arguments: dict, cause: str) -> None:
    with pytest.raises(WeightsError, match=cause):
        load_weights(narrow("i3d_r50"), narrow(other, **arguments).state_dict())


def test_video_weights_do_not_fit_an_image_network() -> None:
    with pytest.raises(WeightsError, match=r"other shape: conv1\.weight"):
        load_weights(narrow("resnet_50"), narrow("i3d_r50").state_dict())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"block": "basic", "groups": 2}, "neither groups nor a width"),
        ({"block": "bottle"}, "block must be one of 'basic', 'bottleneck', got 'bottle'"),
        ({"layers": (1, 1, 1)}, "four numbers of blocks"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"width_per_group": 0}, "width_per_group 0 leaves no channel of 64"),
        ({"stem_kernel": 6}, "stem_kernel must be odd, got 6"),
        ({"time_kernels": (3, 3)}, "four, one a stage"),
        ({"time_kernels": (3, 2, 3, 3)}, "must be odd"),
        ({"time_strides": (1, 0, 1, 1)}, "strides at least 1"),
        ({"time_in": "last"}, "'spatial' or 'first', got 'last'"),
        ({"inflation": "center"}, "'mean' or 'centre', got 'center'"),
        ({"stage_pool": 0}, "stage_pool must be at least 1"),
        ({"attention": "eca"}, "got 'eca'"),
    ],
)
def test_values_that_make_no_network_are_named(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        create_model("i3d_r50", **arguments)


def test_schedules_repeat_over_the_blocks_of_a_stage() -> None:
    schedule = block_schedule("bottleneck", (3, 4, 6, 3), (3, (3, 1), (3, 1), (1, 3)), (1, 2, 1, 1), "first")
    kernels = [[schedule[f"layer{s}.{b}.conv1"].kernel for b in range(n)] for s, n in enumerate((3, 4, 6, 3), 1)]
    assert kernels == [[3, 3, 3], [3, 1, 3, 1], [3, 1, 3, 1, 3, 1], [1, 3, 1]]
    assert (schedule["layer2.0.conv1"].stride, schedule["layer2.0.conv2"].stride) == (1, 2)
    assert (schedule["layer2.0.downsample.0"].stride, schedule["layer2.1.conv2"].stride) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "shortest"),
    [({}, 2), ({"stem_stride_t": 2, "pool_stride_t": 2}, 5), ({"stage_pool": 1}, 1), ({"stage_pool": 3}, 3)],
)
def test_the_shortest_clip_is_the_one_that_the_pool_needs(arguments: dict, shortest: int) -> None:
    model = narrow("i3d_r50", **arguments)
    assert run(model, shortest, 8, 8).shape == (2, 5)
    with pytest.raises(ValueError, match=f"T of at least {shortest}, got" if shortest > 1 else "got"):
        run(model, shortest - 1, 8, 8)


def test_only_a_network_without_time_is_blind_to_the_order_of_frames() -> None:
    x = torch.randn(1, 3, 6, 24, 24, dtype=torch.float64)
    shuffled = x[:, :, [3, 0, 5, 1, 4, 2]]
    for name, blind in (("c2d_r50_tiny", True), ("i3d_r50_tiny", False), ("slow_r50_tiny", False), ("r3d_tiny", False)):
        model = create_model(name).double().eval()
        with torch.no_grad():
            assert torch.allclose(model(x), model(shuffled)) == blind, name


def test_activations_and_their_gradients_stay_channels_last() -> None:
    model, strays = create_model("r3d_tiny").train(), []

    def check(name: str, x: Tensor) -> None:
        if x.ndim == 5 and not x.is_contiguous(memory_format=torch.channels_last_3d):
            strays.append(name)

    def watch(name: str, output: Tensor) -> None:
        check(name, output)
        output.register_hook(lambda gradient: check(f"gradient of {name}", gradient))

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d | nn.BatchNorm3d):
            module.register_forward_hook(lambda module, inputs, output, name=name: watch(name, output))
    model(torch.randn(2, 3, 8, 48, 48)).square().sum().backward()
    assert not strays


def test_gradient_checkpointing_counts_a_batch_once() -> None:
    """Recomputing a block must not move the statistics of its norms a second time."""
    x, statistics = torch.randn(2, 3, 4, 24, 24), []
    for enable in (False, True):
        torch.manual_seed(0)
        model = create_model("i3d_r50_tiny").train()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        statistics.append(
            {key: value for key, value in model.state_dict().items() if "running" in key or "num_" in key}
        )
    for key, value in statistics[0].items():
        torch.testing.assert_close(statistics[1][key], value, msg=key)


def test_a_fresh_video_network_has_no_kernel_that_is_the_same_in_each_frame() -> None:
    model = create_model("i3d_r50", layers=(1, 1, 1, 1), zero_init=True)
    assert not torch.allclose(model.conv1.weight[:, :, 0], model.conv1.weight[:, :, 1])
    fan_out = model.conv1.weight[:, 0].numel()
    assert abs(model.conv1.weight.std().item() - (2 / fan_out) ** 0.5) < 0.1 * (2 / fan_out) ** 0.5
    assert not any(block.bn3.weight.any() for block in model.blocks() if hasattr(block, "bn3"))
