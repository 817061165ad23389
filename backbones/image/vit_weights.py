"""Published layouts of the image ViT, and how its weights fit a model of another size or number of classes.

Our names are timm's: `cls_token, pos_embed, patch_embed.proj, blocks.i.{norm1, attn.qkv, attn.proj, norm2, mlp.fc1,
mlp.fc2}, norm, head`, and for some networks `blocks.i.ls1.gamma`, `fc_norm`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..layouts import Layout, LoadReport, State, WeightRules, renamer
from ..lift.resize import bicubic_grid

if TYPE_CHECKING:
    from .vit import ViT

_from_torchvision = renamer(
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)

_rename_huggingface = renamer(
    (r"^(vi|dei)t\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.", r".attn.\1."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.(intermediate\.dense|mlp\.fc1)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.fc2)\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
    (r"^(cls_)?classifier\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
)


_rename_jax = renamer(
    (r"^(opt/target/|params/)+", ""),
    (r"/", "."),
    (r"^cls$", "cls_token"),
    (r"^(Transformer\.posembed_input\.)?pos_embedding$", "pos_embed"),
    (r"^embedding\.", "patch_embed.proj."),
    (r"^Transformer\.encoderblock_(\d+)\.", r"blocks.\1."),
    (r"\.LayerNorm_0\.", ".norm1."),
    (r"\.LayerNorm_[12]\.", ".norm2."),
    (r"\.MultiHeadDotProductAttention_\d\.(query|key|value)\.", r".attn.\1."),
    (r"\.MultiHeadDotProductAttention_\d\.out\.", ".attn.proj."),
    (r"\.MlpBlock_\d\.Dense_0\.", ".mlp.fc1."),
    (r"\.MlpBlock_\d\.Dense_1\.", ".mlp.fc2."),
    (r"^Transformer\.encoder_norm\.", "norm."),
    (r"^output_projection\.", "head."),
    (r"^pre_logits\.", "pre_logits.fc."),
)


def join_qkv(state: State) -> State:
    """Join each attention's query, key and value, by whatever names, into one `attn.qkv`, unless one is missing."""
    joined = dict(state)
    for names in (("query", "key", "value"), ("q_proj", "k_proj", "v_proj")):
        for key in [key for key in state if f"attn.{names[0]}." in key]:
            parts = [key.replace(names[0], name) for name in names]
            if all(part in joined for part in parts):
                joined[key.replace(names[0], "qkv")] = torch.cat([joined.pop(part) for part in parts])
    return joined


def from_flax(state: State) -> State:
    """Flax's tensors as PyTorch keeps them: outputs first, attention heads in one axis, a norm's scale its weight."""
    converted: State = {}
    for key, value in state.items():
        module, _, part = key.rpartition("/")
        if part == "bias":
            value = value.flatten()
        elif part == "kernel" and value.ndim > 3:  # a convolution: (..., in, out)
            value = value.movedim((-1, -2), (0, 1))
        elif part == "kernel":  # (in, out), (in, heads, out of each) or (heads, in of each, out)
            value = (value.flatten(0, -2) if module.endswith("out") else value.flatten(1)).T
        name = {"kernel": "weight", "scale": "weight"}.get(part, part)
        converted[f"{module}/{name}" if module else name] = value.contiguous()
    return converted


VIT_LAYOUTS = (
    Layout(
        "timm ViT",
        (r"^blocks\.0\.attn\.qkv\.", r"^patch_embed\.proj\."),
        dict,
        never=("temporal_", "^time_embed$", "^temp_embed$"),
        axes=((r"^patch_embed\.proj\.weight$", 4),),
    ),
    Layout(
        "torchvision ViT", (r"^encoder\.layers\.encoder_layer_0\.self_attention\.", r"^conv_proj\."), _from_torchvision
    ),
    Layout(
        "Hugging Face ViT",
        (r"^((vi|dei)t\.)?(encoder\.layer|layers)\.0\.attention\.", r"^((vi|dei)t\.)?embeddings\.patch_embeddings\."),
        lambda state: join_qkv(_rename_huggingface(state)),
        never=(r"temporal_", r"time_embeddings", r"attention\.qkv\.", r"^vivit\."),
        axes=((r"embeddings\.patch_embeddings\.projection\.weight$", 4),),
    ),
    Layout(
        "JAX ViT",
        (r"(^|/)Transformer/encoderblock_0/MultiHeadDotProductAttention_\d/", r"(^|/)embedding/kernel$"),
        lambda state: join_qkv(_rename_jax(from_flax(state))),
        axes=((r"(^|/)embedding/kernel$", 4),),  # ViViT's has five, and otherwise the same names
    ),
)


def vit_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    traits: dict[str, object] = {}
    if "patch_embed.proj.weight" in state:
        traits |= {
            "dim": state["patch_embed.proj.weight"].shape[0],
            "patch": state["patch_embed.proj.weight"].shape[-1],
        }
    blocks = [int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.", key))]
    if blocks:
        traits["depth"] = max(blocks) + 1
    if "blocks.0.mlp.fc1.weight" in state:
        hidden, dim = state["blocks.0.mlp.fc1.weight"].shape
        traits["mlp_ratio"] = hidden / dim
    return traits


def resize_bicubic(state: State, target: Tensor, prefix: int, report: LoadReport) -> None:
    """Bring `pos_embed`, with `prefix` entries before its square grid, to the size of `target`."""
    pos = state.get("pos_embed")
    if pos is None or pos.ndim != 3 or pos.shape[1] == target.shape[1]:
        return
    side = round((target.shape[1] - prefix) ** 0.5)
    state["pos_embed"] = bicubic_grid(pos, (side, side), prefix)
    report.resized["pos_embed"] = f"{pos.shape[1]} -> {target.shape[1]} entries, bicubic as image ViTs are"


_UNUSED = (
    (r"^dist_token$|^head_dist\.", "the distillation token of a DeiT, which serves only its own classifier"),
    (r"^pre_logits\.|^pooler\.", "a layer before the image network's own classifier"),
    (r"^decoder\.|^decoder_|^mask_token$", "only for pre-training by masked images"),
)


def fit_class_token(state: State, pos_embed: Tensor, report: LoadReport) -> State:
    """An image ViT's weights for a video network that classifies a plain ViT's class token; the position embedding is
    brought to the size of `pos_embed`."""
    state = as_plain(state, report)
    resize_bicubic(state, pos_embed, 1, report)
    return state


def as_plain(state: State, report: LoadReport) -> State:
    """An image ViT's weights as those of a plain ViT, whose positions begin with the class token's.

    What some image ViTs have and a plain one has not is expressed by its weights without changing what they compute
    (LayerScale), or dropped (distillation).
    """
    state = dict(state)
    pos = state.get("pos_embed")
    if pos is not None and "dist_token" in state:
        state["pos_embed"] = pos = torch.cat([pos[:, :1], pos[:, 2:]], dim=1)
    for key in list(state):
        if why := next((why for pattern, why in _UNUSED if re.search(pattern, key)), None):
            report.dropped[key] = why
            del state[key]
    fold_layer_scale(state, {}, report)
    if "fc_norm.weight" in state and "norm.weight" not in state:
        state |= {f"norm.{part}": state.pop(f"fc_norm.{part}") for part in ("weight", "bias")}
        report.notes.append("fc_norm, a norm after mean pooling, became norm, which comes before pooling")
    if pos is not None and pos.ndim == 3 and round(pos.shape[1] ** 0.5) ** 2 == pos.shape[1]:
        state["pos_embed"] = torch.cat([torch.zeros_like(pos[:, :1]), pos], dim=1)
        report.notes.append("the class token had no position; it was given zero")
    return state


def fold_layer_scale(state: State, own: Mapping[str, Tensor], report: LoadReport) -> None:
    """Multiply each LayerScale that is not among `own` into the layer before it, which computes the same."""
    folded = [key for key in state if re.search(r"\.ls[12]\.gamma$", key) and key not in own]
    for key in folded:
        block, _, which = key.removesuffix(".gamma").rpartition(".")
        relation = "attn.proj" if f"{block}.attn.proj.weight" in state else "conv2"  # of a UniFormer's local blocks
        last = f"{block}.{relation if which == 'ls1' else 'mlp.fc2'}"
        if f"{last}.weight" not in state or f"{last}.bias" not in state:
            continue  # left over, and named as such
        gamma, weight = state.pop(key).flatten(), state[f"{last}.weight"]
        state[f"{last}.weight"] = weight * gamma.view(-1, *[1] * (weight.ndim - 1))
        state[f"{last}.bias"] = state[f"{last}.bias"] * gamma
    if folded:
        report.notes.append("LayerScale was folded into the layers before it")


def _fit(model: nn.Module, state: State, report: LoadReport) -> State:
    vit: ViT = model  # type: ignore[assignment]
    resize_bicubic(state, vit.pos_embed, vit.embedded_prefix, report)
    return state


VIT_WEIGHTS = WeightRules(VIT_LAYOUTS, _fit, vit_traits)
