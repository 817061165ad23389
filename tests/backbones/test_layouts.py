"""Weights under each publisher's names reach our models exactly: the loader's renamings, the other way round."""

import re

import pytest
import torch
from torch import Tensor, nn

from tubelet.backbones import WeightsError, load_weights

State = dict[str, Tensor]

_HF_TIMESFORMER = (
    (r"^(cls_token)$", r"timesformer.embeddings.\1"),
    (r"^pos_embed$", "timesformer.embeddings.position_embeddings"),
    (r"^time_embed$", "timesformer.embeddings.time_embeddings"),
    (r"^patch_embed\.proj", "timesformer.embeddings.patch_embeddings.projection"),
    (r"^blocks\.", "timesformer.encoder.layer."),
    (r"\.temporal_attn\.qkv", ".temporal_attention.attention.qkv"),
    (r"\.temporal_attn\.proj", ".temporal_attention.output.dense"),
    (r"\.temporal_fc", ".temporal_dense"),
    (r"\.temporal_norm1", ".temporal_layernorm"),
    (r"\.attn\.qkv", ".attention.attention.qkv"),
    (r"\.attn\.proj", ".attention.output.dense"),
    (r"\.mlp\.fc1", ".intermediate.dense"),
    (r"\.mlp\.fc2", ".output.dense"),
    (r"\.norm1", ".layernorm_before"),
    (r"\.norm2", ".layernorm_after"),
    (r"^norm\.", "timesformer.layernorm."),
    (r"^head\.", "classifier."),
)

_MMACTION = (
    (r"^(cls_token|pos_embed|time_embed|norm\..*)$", r"backbone.\1"),
    (r"^patch_embed\.proj", "backbone.patch_embed.projection"),
    (r"^blocks\.", "backbone.transformer_layers.layers."),
    (r"attn\.qkv\.", "attn.in_proj_"),
    (r"attn\.proj\.", "attn.out_proj."),
    (r"\.mlp\.fc1", ".ffns.0.layers.0.0"),
    (r"\.mlp\.fc2", ".ffns.0.layers.1"),
    (r"^head\.", "cls_head.fc_cls."),
)

_MMACTION_DIVIDED = (
    *_MMACTION,
    (r"\.temporal_norm1", ".attentions.0.norm"),
    (r"\.temporal_attn", ".attentions.0.attn"),
    (r"\.temporal_fc", ".attentions.0.temporal_fc"),
    (r"(\d)\.norm1", r"\1.attentions.1.norm"),
    (r"(layers\.\d+)\.attn", r"\1.attentions.1.attn"),
    (r"(\d)\.norm2", r"\1.ffns.0.norm"),
)

_MMACTION_WHOLE = (
    *_MMACTION,
    (r"(layers\.\d+)\.attn", r"\1.attentions.0.attn"),
    (r"(\d)\.norm1", r"\1.norms.0"),
    (r"(\d)\.norm2", r"\1.norms.1"),
)

_TORCHVISION_VIT = (
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^patch_embed\.proj", "conv_proj"),
    (r"^blocks\.", "encoder.layers.encoder_layer_"),
    (r"\.norm(\d)", r".ln_\1"),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj", ".self_attention.out_proj"),
    (r"\.mlp\.fc1", ".mlp.0"),
    (r"\.mlp\.fc2", ".mlp.3"),
    (r"^norm\.", "encoder.ln."),
    (r"^head\.", "heads.head."),
)

_HF_VIT = (
    (r"^cls_token$", "vit.embeddings.cls_token"),
    (r"^pos_embed$", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
    (r"^blocks\.", "vit.encoder.layer."),
    (r"\.attn\.(query|key|value)", r".attention.attention.\1"),
    (r"\.attn\.proj", ".attention.output.dense"),
    (r"\.mlp\.fc1", ".intermediate.dense"),
    (r"\.mlp\.fc2", ".output.dense"),
    (r"\.norm1", ".layernorm_before"),
    (r"\.norm2", ".layernorm_after"),
    (r"^norm\.", "vit.layernorm."),
    (r"^head\.", "classifier."),
)

_JAX_VIT = (
    (r"^cls_token$", "cls"),
    (r"^pos_embed$", "Transformer.posembed_input.pos_embedding"),
    (r"^patch_embed\.proj", "embedding"),
    (r"^blocks\.(\d+)", r"Transformer.encoderblock_\1"),
    (r"\.norm1", ".LayerNorm_0"),
    (r"\.norm2", ".LayerNorm_2"),
    (r"\.attn\.proj", ".MultiHeadDotProductAttention_1.out"),
    (r"\.attn", ".MultiHeadDotProductAttention_1"),
    (r"\.mlp\.fc1", ".MlpBlock_3.Dense_0"),
    (r"\.mlp\.fc2", ".MlpBlock_3.Dense_1"),
    (r"^norm\.", "Transformer.encoder_norm."),
    (r"((Norm_\d|norm)\.)weight", r"\1scale"),
    (r"\.weight", ".kernel"),
    (r"\.", "/"),
)


def _rename(state: State, rules: tuple[tuple[str, str], ...]) -> State:
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def to_official(state: State) -> dict[str, object]:
    return {"model_state": {f"model.{key}": value for key, value in state.items()}, "cfg": "text", "epoch": 3}


def to_huggingface(state: State) -> State:
    return _rename(state, _HF_TIMESFORMER)


def to_mmaction(state: State) -> dict[str, object]:
    divided = any("temporal" in key for key in state)
    return {"state_dict": _rename(state, _MMACTION_DIVIDED if divided else _MMACTION_WHOLE), "meta": {"epoch": 1}}


def to_torchvision_vit(state: State) -> State:
    return _rename(state, _TORCHVISION_VIT)


def _split_qkv(state: State) -> State:
    split: State = {}
    for key, value in state.items():
        if ".attn.qkv." in key:
            parts = zip(("query", "key", "value"), torch.chunk(value, 3), strict=True)
            split |= {key.replace("qkv", name): part for name, part in parts}
        else:
            split[key] = value
    return split


def to_huggingface_vit(state: State) -> State:
    return _rename(_split_qkv(state), _HF_VIT)


def to_jax_vit(state: State, heads: int = 3) -> State:
    """Google's names and flax's layouts: kernels (in, out), convolutions (h, w, in, out), heads apart."""
    flax: State = {}
    for key, value in _rename(_split_qkv(state), _JAX_VIT).items():
        if re.search("(query|key|value)/bias", key):
            value = value.unflatten(0, (heads, -1))
        elif key.endswith("kernel"):
            value = value.permute(2, 3, 1, 0) if value.ndim == 4 else value.T
            if re.search("(query|key|value)/", key):
                value = value.unflatten(1, (heads, -1))
            elif "/out/" in key:
                value = value.unflatten(0, (heads, -1))
        flax[key] = value
    return flax


def to_scenic_vit(state: State) -> State:
    """The same as ViViT's authors number its layers: but for the first kernel's axes, ViViT's own names."""
    layers = ((r"Norm_2", "Norm_1"), (r"Attention_1", "Attention_0"), (r"MlpBlock_3", "MlpBlock_0"))
    return _rename(to_jax_vit(state), (*layers, (r"^head/", "output_projection/"), (r"^", "opt/target/")))


def to_ours(state: State) -> State:
    return state


def run(model: nn.Module, *shape: int) -> Tensor:
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("attention", ["divided", "joint", "space"])
@pytest.mark.parametrize("publish", [to_ours, to_official, to_huggingface, to_mmaction])
def test_timesformer_layouts_give_equal_logits(randomised, publish, attention: str) -> None:
    theirs, ours = randomised("timesformer", attention=attention), randomised("timesformer", attention=attention)
    report = load_weights(ours, publish(theirs.state_dict()))
    assert len(report.loaded) == report.total
    assert not report.dropped
    assert not report.initialised
    assert not report.resized
    assert not report.copied
    assert torch.equal(run(ours, 3, 24, 24), run(theirs, 3, 24, 24))


VIT_PUBLISHERS = [to_ours, to_torchvision_vit, to_huggingface_vit, to_jax_vit, to_scenic_vit]


@pytest.mark.parametrize("publish", VIT_PUBLISHERS)
def test_vit_layouts_give_equal_logits(randomised, publish) -> None:
    theirs, ours = randomised("vit_b_16"), randomised("vit_b_16")
    assert len(load_weights(ours, publish(theirs.state_dict())).loaded) == len(ours.state_dict())
    assert torch.equal(run(ours, 24, 24), run(theirs, 24, 24))


@pytest.mark.parametrize("publish", VIT_PUBLISHERS)
@pytest.mark.parametrize("attention", ["divided", "space"])
def test_a_lifted_vit_sees_a_still_video_as_its_image(randomised, small, publish, attention: str) -> None:
    vit, video = randomised("vit_b_16"), small("timesformer", frames=3, attention=attention)
    report = load_weights(video, publish(vit.state_dict()))
    image = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(
            video(image.unsqueeze(2).expand(-1, -1, 3, -1, -1)), vit(image), rtol=1e-4, atol=1e-5
        )
    if attention == "divided":
        assert report.copied["blocks.1.temporal_attn.qkv.weight"] == "from blocks.1.attn.qkv.weight"
        assert {"time_embed", "blocks.0.temporal_fc.weight"} <= set(report.initialised)
        assert "copied: blocks.*.temporal_norm1.weight x2 (from blocks.*.norm1.weight)" in str(report)


@pytest.mark.parametrize("lost", ["query", "value"])
def test_a_missing_part_of_an_attention_is_named(randomised, lost: str) -> None:
    vit = randomised("vit_b_16")
    state = to_huggingface_vit(vit.state_dict())
    del state[next(key for key in state if f".0.attention.attention.{lost}.weight" in key)]
    with pytest.raises(WeightsError, match=r"missing: blocks\.0\.attn\.qkv\.weight"):
        load_weights(vit, state)
    assert load_weights(vit, state, strict=False).initialised == ["blocks.0.attn.qkv.weight"]
