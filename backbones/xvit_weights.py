"""Published layouts of X-ViT, and how its weights, or an image ViT's, fit a model.

Our names are those of the image ViT, with `temp_embed` as published, and `temporal_head.{cls_token, blocks.i, norm,
fc}` for the official `consensus.{cls_token, temporal_encoder.i, mlp_head.0, mlp_head.1}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .image.vit_weights import VIT_LAYOUTS, fit_class_token, resize_bicubic, vit_traits
from .layouts import Layout, LoadReport, State, WeightRules, renamer
from .lift.resize import nearest_sequence

if TYPE_CHECKING:
    from .xvit import XViT

_rename_official = renamer(
    (r"^base_model\.", ""),
    (r"^consensus\.cls_token$", "temporal_head.cls_token"),
    (r"^consensus\.temporal_encoder\.", "temporal_head.blocks."),
    (r"^consensus\.mlp_head\.0\.", "temporal_head.norm."),
    (r"^consensus\.mlp_head\.1\.", "temporal_head.fc."),
    (r"^consensus\.mlp_head\.4\.", "head."),
)


def _from_official(state: State) -> State:
    """Rename; `new_fc` is the classifier only where no temporal head has another."""
    renamed = _rename_official(state)
    if "head.weight" in renamed:
        return renamed
    return {key.replace("new_fc.", "head."): value for key, value in renamed.items()}


_BLOCK = r"blocks\.0\.attn\.qkv\."

LAYOUTS = (
    Layout("X-ViT (official)", (r"^base_model\." + _BLOCK, r"^base_model\.temp_embed$"), _from_official),
    Layout("X-ViT", ("^" + _BLOCK, "^temp_embed$"), dict),
    *VIT_LAYOUTS,
)


def repeat_in_time(embed: Tensor, frames: int) -> Tensor:
    """A time embedding (1, E, 1, C) for `frames` frames: begun anew every E frames as published, or of a length that E
    does not divide, by nearest neighbour."""
    entries = embed.shape[1]
    if frames % entries == 0:
        return embed if frames == entries else embed.repeat(1, frames // entries, 1, 1)
    return nearest_sequence(embed.squeeze(2), frames).unsqueeze(2)


def xvit_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    traits = vit_traits(state)
    blocks = {key.split(".")[2] for key in state if key.startswith("temporal_head.blocks.")}
    traits["head"] = "temporal" if blocks else "average"
    if blocks:
        traits["head_depth"] = len(blocks)
    if "temporal_head.fc.weight" in state:
        traits["head_dim"] = state["temporal_head.fc.weight"].shape[0]
    return traits


def fit_xvit(model: nn.Module, state: State, report: LoadReport) -> State:
    """Bring X-ViT or image ViT weights to this model: its frames, its position embedding, and what is new in it."""
    xvit: XViT = model  # type: ignore[assignment]
    if report.layout in {layout.name for layout in VIT_LAYOUTS}:
        state = _from_image(xvit, state, report)
    for key in ("new_fc.weight", "new_fc.bias"):
        if state.pop(key, None) is not None:
            report.dropped[key] = "a classifier that the published network does not use beside its temporal head"
    resize_bicubic(state, xvit.pos_embed, 1, report)
    time = state.get("temp_embed")
    frames = xvit.temp_embed.shape[1]
    if time is not None and time.ndim == 4 and time.shape[1] != frames:
        how = f"begun anew every {time.shape[1]} frames as published" if frames % time.shape[1] == 0 else "nearest"
        state["temp_embed"] = repeat_in_time(time, frames)
        report.resized["temp_embed"] = f"{time.shape[1]} -> {frames} frames, {how}"
    return state


def _from_image(model: XViT, state: State, report: LoadReport) -> State:
    """An image ViT: the frames' network. Time, and what looks at all frames, is new."""
    state = fit_class_token(state, model.pos_embed, report)
    new = [key for key in model.state_dict() if key == "temp_embed" or key.startswith("temporal_head.")]
    report.initialised += new
    if model.temporal_head is not None:
        dropped = [key for key in ("head.weight", "head.bias") if state.pop(key, None) is not None]
        report.dropped |= dict.fromkeys(dropped, "it classifies the class token of an image, not a temporal head")
    return state


XVIT_WEIGHTS = WeightRules(LAYOUTS, fit_xvit, xvit_traits)
