"""Published layouts of ViViT, and how its weights, or an image ViT's, fit a model.

Our names are those of the image ViT. A factorised encoder's second transformer is `temporal_blocks.i, temporal_norm,
temporal_cls_token, temporal_pos_embed`; factorised attention has `blocks.i.{temporal_norm1, temporal_attn.qkv,
temporal_attn.proj}` beside the attention over space.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .image.vit_weights import VIT_LAYOUTS, as_plain, from_flax, join_qkv, vit_traits
from .layouts import Layout, LoadReport, State, WeightRules, renamer
from .lift.inflate import inflate_weight
from .lift.resize import linear_grid
from .lift_weights import start_time_from_space

if TYPE_CHECKING:
    from .vivit import ViViT

_IMAGE = {layout.name: layout for layout in VIT_LAYOUTS}
_PUBLISHED = ((16, 14, 14), (16, 20, 20))  # 32 frames of 224 or 320 pixels in tubelets of 2 x 16 x 16
_CHECKPOINT = re.compile(r"^(?:.*/)?(?:target|params)/(?=embedding/kernel$)")

_rename_scenic = renamer(
    (r"/", "."),
    (r"^(Spatial)?Transformer\.", ""),
    (r"^TemporalTransformer\.", "temporal_"),
    (r"^cls(_SpatialTransformer)?$", "cls_token"),
    (r"^cls_TemporalTransformer$", "temporal_cls_token"),
    (r"^(temporal_)?posembed_input\.pos_embedding$", r"\1pos_embed"),
    (r"^embedding\.", "patch_embed.proj."),
    (r"^(temporal_)?encoderblock_(\d+)\.", r"\1blocks.\2."),
    (r"^(temporal_)?encoder_norm\.", r"\1norm."),
    (r"\.LayerNorm_(0|space)\.", ".norm1."),
    (r"\.LayerNorm_time\.", ".temporal_norm1."),
    (r"\.LayerNorm_(1|mlp)\.", ".norm2."),
    (r"\.MultiHeadDotProductAttention_(0|space)\.", ".attn."),
    (r"\.MultiHeadDotProductAttention_time\.", ".temporal_attn."),
    (r"attn\.out\.", "attn.proj."),
    (r"\.MlpBlock(_0)?\.Dense_0\.", ".mlp.fc1."),
    (r"\.MlpBlock(_0)?\.Dense_1\.", ".mlp.fc2."),
    (r"^output_projection\.", "head."),
)


def _from_scenic(state: State) -> State:
    """The parameters alone where the keys are those of a whole checkpoint, optimiser and counters included."""
    prefix = min((found[0] for key in state if (found := _CHECKPOINT.match(key))), key=len, default="")
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return join_qkv(_rename_scenic(from_flax(weights)))


def _from_huggingface(state: State) -> State:
    return _IMAGE["Hugging Face ViT"].convert({key.removeprefix("vivit."): value for key, value in state.items()})


_HF_PATCHES = r"^(vivit\.)?embeddings\.patch_embeddings\.projection\.weight$"

LAYOUTS = (
    Layout(
        "ViViT (Scenic)",
        (
            r"(^|/)(Spatial)?Transformer/encoderblock_0/MultiHeadDotProductAttention_(0|space)/",
            r"(^|/)embedding/kernel$",
        ),
        _from_scenic,
        axes=((r"(^|/)embedding/kernel$", 5),),
    ),
    Layout(
        "ViViT (Hugging Face)",
        (r"^(vivit\.)?(encoder\.layer|layers)\.0\.attention\.", _HF_PATCHES),
        _from_huggingface,
        axes=((_HF_PATCHES, 5),),
        settings=lambda state: {"variant": "joint", "approximate": "tanh"},
    ),
    Layout(
        "ViViT",
        (r"^blocks\.0\.attn\.qkv\.", r"^patch_embed\.proj\."),
        dict,
        never=("temporal_fc", "^time_embed$", "^temp_embed$", "relative_position"),
        axes=((r"^patch_embed\.proj\.weight$", 5),),
    ),
    *VIT_LAYOUTS,
)


def vivit_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    traits = {key: value for key, value in vit_traits(state).items() if key != "patch"}
    if "patch_embed.proj.weight" in state:
        traits["tubelet"] = tuple(state["patch_embed.proj.weight"].shape[2:])
    over_time = [int(found[1]) for key in state if (found := re.match(r"temporal_blocks\.(\d+)\.", key))]
    if over_time:
        traits |= {"variant": "factorised_encoder", "temporal_depth": max(over_time) + 1}
    else:
        attention = any(".temporal_attn." in key for key in state)
        traits["variant"] = "factorised_attention" if attention else "joint or factorised_heads"
    return {**traits, "pool": "token" if "cls_token" in state else "mean"}


def fit_vivit(model: nn.Module, state: State, report: LoadReport) -> State:
    """Bring ViViT or image ViT weights to this model: resize embeddings, give an image's time, drop what has no use."""
    vivit: ViViT = model  # type: ignore[assignment]
    for key in [key for key in state if key.startswith(("pooler.", "pre_logits."))]:
        _drop(state, key, "ViViT classifies the class token or mean itself", report)
    if report.layout in _IMAGE:
        state = _from_image_vit(vivit, state, report)
    elif vivit.variant == "factorised_encoder":
        _resize(vivit, "pos_embed", vivit.grid[1:], state, report)
        _resize(vivit, "temporal_pos_embed", vivit.grid[:1], state, report)
    else:
        _resize(vivit, "pos_embed", vivit.grid, state, report)
    return state


def _from_image_vit(model: ViViT, state: State, report: LoadReport) -> State:
    """Section 3.4 of the paper: tubelets from patches, positions repeated in time, and what is new over time."""
    state = as_plain(state, report)
    kernel, (times, *_) = state.get("patch_embed.proj.weight"), model.patch_embed.proj.kernel_size
    if kernel is not None:
        state["patch_embed.proj.weight"] = inflate_weight(kernel, times, model.inflation)
        centre = f"at frame {times // 2} of {times}, zero at the others"
        how = centre if model.inflation == "centre" else f"an equal share to each of {times} frames"
        report.inflated["patch_embed.proj.weight"] = how
    _lift_positions(model, state, report)
    if model.cls_token is None:
        _drop(state, "cls_token", "this model takes the mean of its tokens", report)
    elif "cls_token" not in state:
        report.initialised.append("cls_token")
    if model.variant == "factorised_attention":
        start_time_from_space(state, (".norm1.", ".attn.qkv."), report)
        last = {key: value for key, value in model.state_dict().items() if ".temporal_attn.proj." in key}
        state |= {key: torch.zeros_like(value) for key, value in last.items()}
        report.initialised += last
        report.notes.append("temporal_attn.proj starts at zero: each time is seen as the image network sees it")
    report.initialised += [key for key in model.state_dict() if key.startswith("temporal_")]
    if model.approximate == "tanh" and report.layout != "JAX ViT":
        report.notes.append("the GELU is ViViT's tanh approximation; approximate='none' keeps the image network's")
    return state


def _lift_positions(model: ViViT, state: State, report: LoadReport) -> None:
    """An image's positions, at this model's grid, repeated at each time."""
    pos, (times, *grid) = state.get("pos_embed"), model.grid
    if pos is None or pos.ndim != 3:
        return
    first, rest, side = pos[:, : model.prefix], pos[:, 1:], _square(pos.shape[1] - 1)
    if rest.shape[1] != math.prod(grid) and side is not None:
        rest = _resized(rest, (side, side), tuple(grid))
        report.resized["pos_embed"] = _told((side, side), grid)
    if model.variant != "factorised_encoder":
        rest = rest.repeat(1, times, 1)
        report.inflated["pos_embed"] = f"repeated at each of {times} times"
    state["pos_embed"] = torch.cat([first, rest], dim=1)


def _resize(model: ViViT, name: str, grid: tuple[int, ...], state: State, report: LoadReport) -> None:
    """Scenic's rule for positions of another grid: linear along each axis, ends to ends."""
    pos = state.get(name)
    source = None if pos is None or pos.ndim != 3 else _source_grid(pos.shape[1] - model.prefix, grid)
    if pos is not None and source is not None and source != grid:
        state[name] = _resized(pos, source, grid, model.prefix)
        report.resized[name] = _told(source, grid)


def _resized(pos: Tensor, source: tuple[int, ...], grid: tuple[int, ...], prefix: int = 0) -> Tensor:
    """As exact as Scenic's loader, which computes in float64."""
    return linear_grid(pos.double(), source, grid, prefix).to(pos.dtype)


def _source_grid(entries: int, grid: tuple[int, ...]) -> tuple[int, ...] | None:
    """The grid that so many positions were made for, or None. It is not stored: a published number is of its grid; of
    others (t h w), either the places are taken to be as here, or the times, or these to be the published ones."""
    if entries == math.prod(grid) or len(grid) == 1:
        return grid if entries == math.prod(grid) else (entries,)
    if len(grid) == 2:
        side = _square(entries)
        return None if side is None else (side, side)
    times, places = grid[0], math.prod(grid[1:])
    if published := next((one for one in _PUBLISHED if math.prod(one) == entries), None):
        return published
    if entries % places == 0:
        return (entries // places, *grid[1:])
    for count in (times, _PUBLISHED[0][0]):
        side = _square(entries // count) if entries % count == 0 else None
        if side is not None:
            return (count, side, side)
    return None


def _square(count: int) -> int | None:
    """The side of a square of so many places, or None."""
    side = math.isqrt(max(count, 0))
    return side if side and side * side == count else None


def _told(source: tuple[int, ...], grid: tuple[int, ...] | list[int]) -> str:
    before, after = (" x ".join(map(str, sides)) for sides in (source, grid))
    return f"{before} -> {after} positions, linear with ends on ends as Scenic does"


def _drop(state: State, key: str, why: str, report: LoadReport) -> None:
    if state.pop(key, None) is not None:
        report.dropped[key] = why


VIVIT_WEIGHTS = WeightRules(LAYOUTS, fit_vivit, vivit_traits)
