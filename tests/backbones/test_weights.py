"""Weights of another size, number of classes or network: resized, dropped, or refused with the cause."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tubelet.backbones import WeightsError, create_model, load_weights
from tubelet.backbones.lift.resize import bicubic_grid, nearest_sequence


def test_a_lifted_deit3_keeps_what_layerscale_and_positions_do(randomised, small) -> None:
    vit = randomised("deit3_b_16")
    video = small("timesformer", frames=2)
    report = load_weights(video, vit.state_dict())
    image = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(
            video(image.unsqueeze(2).expand(-1, -1, 2, -1, -1)), vit(image), rtol=1e-4, atol=1e-5
        )
    assert "LayerScale" in str(report)


def test_a_distilled_deit_without_its_distillation(randomised) -> None:
    """Its second token, its classifier and its position, the second, go; everything else arrives as it is."""
    vit, video = randomised("vit_b_16"), randomised("timesformer", attention="space")
    state = vit.state_dict()
    extra = torch.randn(1, 1, 24)
    pos = torch.cat([state["pos_embed"][:, :1], extra, state["pos_embed"][:, 1:]], dim=1)
    head = {"head_dist.weight": torch.randn(5, 24), "head_dist.bias": torch.randn(5)}
    report = load_weights(video, {"model": {**state, **head, "pos_embed": pos, "dist_token": extra}})
    assert set(report.dropped) == {"dist_token", *head}
    assert "distillation" in str(report)
    assert torch.equal(video.pos_embed, vit.pos_embed)
    with pytest.raises(WeightsError, match="unexpected: dist_token"):
        load_weights(vit, {**state, "dist_token": extra})


def test_layers_before_an_images_classifier_are_dropped_with_a_reason(randomised) -> None:
    """ImageNet-21k files have one (`pre_logits`), and those for pre-training by masked images a decoder."""
    vit, video = randomised("vit_b_16"), randomised("timesformer")
    more = {"pre_logits.fc.weight": torch.zeros(24, 24), "decoder_embed.weight": torch.zeros(8, 24),
            "mask_token": torch.zeros(1, 1, 8)}  # fmt: skip
    report = load_weights(video, vit.state_dict() | more)
    assert set(report.dropped) == set(more)
    assert all(report.dropped.values())


def test_a_checkpoint_of_another_size_is_resized_as_published(randomised) -> None:
    theirs, ours = randomised("timesformer", size=24, frames=3), randomised("timesformer", size=40, frames=5)
    report = load_weights(ours, theirs.state_dict())
    pos = theirs.pos_embed.data
    assert torch.equal(ours.pos_embed.data, nearest_sequence(pos, 25, prefix=1))
    assert torch.equal(ours.time_embed.data[0, :, 0], theirs.time_embed.data[0, [0, 0, 1, 1, 2], 0])
    assert "10 -> 26" in report.resized["pos_embed"]
    assert "3 -> 5" in report.resized["time_embed"]


def test_image_weights_of_another_size_are_resized_bicubic(randomised) -> None:
    vit = randomised("vit_b_16")
    for ours in (randomised("timesformer", size=40), randomised("vit_b_16", size=40)):
        report = load_weights(ours, vit.state_dict())
        assert torch.equal(ours.pos_embed.data, bicubic_grid(vit.pos_embed.data, (5, 5)))
        assert "bicubic" in report.resized["pos_embed"]


def test_a_space_only_checkpoint_is_told_from_an_image_vit_by_its_classes(randomised) -> None:
    theirs, ours = randomised("timesformer", attention="space"), randomised("timesformer", attention="space", size=40)
    load_weights(ours, theirs.state_dict())
    assert torch.equal(ours.pos_embed.data, nearest_sequence(theirs.pos_embed.data, 25, prefix=1))
    load_weights(ours, randomised("vit_b_16", num_classes=7).state_dict() | {"pos_embed": theirs.pos_embed.data})
    assert torch.equal(ours.pos_embed.data, bicubic_grid(theirs.pos_embed.data, (5, 5)))


def test_a_head_of_other_classes_is_dropped(randomised) -> None:
    theirs, ours = randomised("timesformer"), randomised("timesformer", num_classes=9)
    head = ours.head.weight.clone()
    report = load_weights(ours, theirs.state_dict())
    assert torch.equal(ours.head.weight, head)
    assert report.dropped["head.weight"] == "5 classes, this model has 9"
    assert report.initialised == ["head.weight", "head.bias"]
    headless = {key: value for key, value in theirs.state_dict().items() if not key.startswith("head.")}
    assert load_weights(ours, headless).initialised == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("other", "cause"),
    [
        ({"dim": 48}, "dim 48, this model has 24"),
        ({"depth": 3}, "depth 3, this model has 2"),
        ({"patch": 12}, "patch 12, this model has 8"),
        ({"mlp_ratio": 4}, "mlp_ratio 4.0, this model has 2.0"),
    ],
)
def test_another_architecture_is_named(randomised, other: dict, cause: str) -> None:
    with pytest.raises(WeightsError, match=cause):
        load_weights(randomised("timesformer"), randomised("timesformer", **other).state_dict())


def test_divided_weights_do_not_fit_joint_attention(randomised) -> None:
    with pytest.raises(WeightsError, match="attention divided, this model has joint"):
        load_weights(randomised("timesformer", attention="joint"), randomised("timesformer").state_dict())


def test_weights_of_another_network_are_named(randomised) -> None:
    resnet = {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}
    with pytest.raises(WeightsError, match=r"these are weights of .*ResNet; it begins with conv1\.weight"):
        load_weights(randomised("timesformer"), resnet)
    with pytest.raises(WeightsError, match="these are weights of TimeSformer"):
        load_weights(randomised("vit_b_16"), randomised("timesformer").state_dict())


def test_missing_and_unexpected_keys_are_errors_unless_told_otherwise(randomised) -> None:
    state = randomised("timesformer").state_dict()
    state["blocks.0.attn.q_norm.weight"] = torch.zeros(8)
    del state["norm.bias"]
    ours = randomised("timesformer")
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(WeightsError, match=r"unexpected: blocks\.0\.attn\.q_norm\.weight; missing: norm\.bias"):
        load_weights(ours, state)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())
    report = load_weights(ours, state, strict=False)
    assert list(report.dropped) == ["blocks.0.attn.q_norm.weight"]
    assert report.initialised == ["norm.bias"]
    assert len(report.loaded) == report.total - 1


NETWORKS = ("c3d_tiny", "csn_tiny", "i3d_tiny", "p3d_tiny", "r2plus1d_tiny", "r3d_tiny", "timesformer_tiny",
            "uniformer_tiny", "video_swin_tiny", "vivit_tiny", "xvit_tiny")  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("reshape", [torch.flatten, torch.sum, lambda value: value[..., :1]], ids=["flat", "0d", "cut"])
def test_tensors_with_the_names_alone_are_one_error(name: str, reshape: Callable[[Tensor], Tensor]) -> None:
    model = create_model(name)
    state = {key: reshape(value) if value.ndim else value for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=rf"^state dict .*does not fit {name}: [^\n]*$"):
        load_weights(model, state)


def test_layerscale_without_its_layer_is_named(randomised) -> None:
    state = randomised("vit_b_16", layer_scale=0.1).state_dict()
    del state["blocks.0.attn.proj.weight"]
    with pytest.raises(WeightsError, match=r"unexpected: blocks\.0\.ls1\.gamma; missing: .*attn\.proj\.weight"):
        load_weights(randomised("timesformer"), state)


def test_positions_that_are_no_square_are_one_error(randomised) -> None:
    vit = randomised("vit_b_16")
    for name in ("vit_b_16", "timesformer"):
        with pytest.raises(WeightsError, match="is not a square grid"):
            load_weights(randomised(name), vit.state_dict() | {"pos_embed": torch.zeros(1, 12, 24)})
