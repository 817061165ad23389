"""Published layouts of the image UniFormer, and how its weights fit a model.

Our names are the official repository's: `patch_embed{1-4}.{proj, norm}, blocks{1,2}.i.{pos_embed, norm1, conv1, attn,
conv2, norm2, mlp.fc1, mlp.fc2}, blocks{3,4}.i.{pos_embed, norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2}, norm,
head`, with `ls1.gamma` and `ls2.gamma` for its `gamma_1` and `gamma_2`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ..layouts import Layout, LoadReport, State, WeightRules, renamer
from .vit_weights import fold_layer_scale

rename_uniformer = renamer(
    (r"^backbone\.", ""),
    (r"^(cls_head\.fc_cls|head\.fc)\.", "head."),
    (r"^(blocks\d\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma"),
)

MARKS = (r"^(backbone\.)?patch_embed4\.proj\.", r"^(backbone\.)?blocks1\.0\.conv1\.weight$")
STEM = r"^(backbone\.)?patch_embed1\.proj\.(0\.)?weight$"

UNIFORMER_IMAGE_LAYOUTS = (Layout("image UniFormer", MARKS, rename_uniformer, axes=((STEM, 4),)),)


def fit_uniformer_image(model: nn.Module, state: State, report: LoadReport) -> State:
    """Drop what only training needs, and fold in the LayerScale that the model has no place for."""
    for key in [key for key in state if key.startswith("aux_head.")]:
        report.dropped[key] = "labels each token while training by token labelling; here the mean is classified"
        del state[key]
    fold_layer_scale(state, model.state_dict(), report)
    return state


def uniformer_image_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    traits: dict[str, object] = {}
    depth = [0, 0, 0, 0]
    for key in state:
        if found := re.match(r"blocks([1-4])\.(\d+)\.", key):
            depth[int(found[1]) - 1] = max(depth[int(found[1]) - 1], int(found[2]) + 1)
    if any(depth):
        traits["depth"] = tuple(depth)
    traits["conv_stem"] = "patch_embed1.proj.0.weight" in state
    traits["layer_scale"] = "learnt" if any(".ls1." in key for key in state) else None
    widths = [state.get(f"blocks{stage}.0.norm1.weight") for stage in (1, 2, 3, 4)]
    traits["dim"] = tuple(width.shape[0] for width in widths if width is not None)
    embeds = [state.get(f"patch_embed{stage}.proj.weight") for stage in (1, 2, 3, 4)]
    if not traits["conv_stem"]:
        traits["patch"] = tuple(embed.shape[-1] for embed in embeds if embed is not None)
    for name, key in (("pos_kernel", "blocks1.0.pos_embed.weight"), ("local_kernel", "blocks1.0.attn.weight")):
        if key in state:
            traits[name] = state[key].shape[-1]
    if "blocks1.0.mlp.fc1.weight" in state:
        hidden, dim = state["blocks1.0.mlp.fc1.weight"].shape[:2]
        traits["mlp_ratio"] = hidden / dim
    return traits


UNIFORMER_IMAGE_WEIGHTS = WeightRules(UNIFORMER_IMAGE_LAYOUTS, fit_uniformer_image, uniformer_image_traits)
