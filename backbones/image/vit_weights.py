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
    (r"^vit\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
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
    (r"^classifier\.", "head."),
)


def _from_huggingface(state: State) -> State:
    """Rename, and join each block's query, key and value into one `attn.qkv`."""
    renamed = _rename_huggingface(state)
    for names in (("query", "key", "value"), ("q_proj", "k_proj", "v_proj")):
        for key in [key for key in renamed if f".attn.{names[0]}." in key]:
            parts = [renamed.pop(key.replace(names[0], name)) for name in names]
            renamed[key.replace(names[0], "qkv")] = torch.cat(parts)
    return renamed


VIT_LAYOUTS = (
    Layout(
        "timm ViT", (r"^blocks\.0\.attn\.qkv\.", r"^patch_embed\.proj\."), dict, never=("temporal_", "^time_embed$")
    ),
    Layout(
        "torchvision ViT", (r"^encoder\.layers\.encoder_layer_0\.self_attention\.", r"^conv_proj\."), _from_torchvision
    ),
    Layout(
        "Hugging Face ViT",
        (r"^(vit\.)?(encoder\.layer|layers)\.0\.attention\.", r"^(vit\.)?embeddings\.patch_embeddings\."),
        _from_huggingface,
        never=(r"temporal_", r"time_embeddings", r"attention\.qkv\.", r"^vivit\."),
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


def _fit(model: nn.Module, state: State, report: LoadReport) -> State:
    vit: ViT = model  # type: ignore[assignment]
    resize_bicubic(state, vit.pos_embed, vit.embedded_prefix, report)
    return state


VIT_WEIGHTS = WeightRules(VIT_LAYOUTS, _fit, vit_traits)
