"""Published layouts of TimeSformer, and how its weights, or an image ViT's, fit a model.

Our names are the official repository's: those of the image ViT, with `time_embed` and, for divided attention,
`blocks.i.{temporal_norm1, temporal_attn.qkv, temporal_attn.proj, temporal_fc}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .image.vit_weights import VIT_LAYOUTS, as_plain, resize_bicubic, vit_traits
from .layouts import Layout, LoadReport, State, WeightRules, renamer
from .lift.resize import nearest_sequence
from .lift_weights import start_time_from_space

if TYPE_CHECKING:
    from .timesformer import TimeSformer

_from_huggingface = renamer(
    (r"^timesformer\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.time_embeddings$", "time_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.temporal_attention\.attention\.", ".temporal_attn."),
    (r"\.temporal_attention\.output\.dense\.", ".temporal_attn.proj."),
    (r"\.temporal_dense\.", ".temporal_fc."),
    (r"\.temporal_layernorm\.", ".temporal_norm1."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)

_MMACTION_COMMON = (
    (r"^backbone\.", ""),
    (r"^cls_head\.fc_cls\.", "head."),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^transformer_layers\.layers\.(\d+)\.", r"blocks.\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ffns\.0\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffns\.0\.layers\.1\.", ".mlp.fc2."),
)

_from_mmaction_divided = renamer(
    *_MMACTION_COMMON,
    (r"\.attentions\.0\.norm\.", ".temporal_norm1."),
    (r"\.attentions\.0\.attn\.", ".temporal_attn."),
    (r"\.attentions\.0\.temporal_fc\.", ".temporal_fc."),
    (r"\.attentions\.1\.norm\.", ".norm1."),
    (r"\.attentions\.1\.", "."),
    (r"\.ffns\.0\.norm\.", ".norm2."),
)

_from_mmaction_whole = renamer(
    *_MMACTION_COMMON,
    (r"\.attentions\.0\.", "."),
    (r"\.norms\.0\.", ".norm1."),
    (r"\.norms\.1\.", ".norm2."),
)

_MMACTION = r"^(backbone\.)?transformer_layers\.layers\.0\.attentions\."
_HUGGINGFACE = r"^(timesformer\.)?encoder\.layer\.0\.attention\.attention\.qkv\."
_OFFICIAL = r"^blocks\.0\.attn\.qkv\."

LAYOUTS = (
    Layout("TimeSformer (official)", (_OFFICIAL, r"^time_embed$"), dict),
    Layout("TimeSformer (Hugging Face)", (_HUGGINGFACE,), _from_huggingface),
    Layout("TimeSformer (MMAction2), divided", (_MMACTION + "1",), _from_mmaction_divided),
    Layout("TimeSformer (MMAction2), joint or space", (_MMACTION + "0",), _from_mmaction_whole),
    *VIT_LAYOUTS,
)


def timesformer_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    divided = any(".temporal_attn." in key for key in state)
    return {**vit_traits(state), "attention": "divided" if divided else "joint" if "time_embed" in state else "space"}


def fit_timesformer(model: nn.Module, state: State, report: LoadReport) -> State:
    """Bring TimeSformer or image ViT weights to this model: fold in what it lacks, resize embeddings, add time."""
    timesformer: TimeSformer = model  # type: ignore[assignment]
    if report.layout in {layout.name for layout in VIT_LAYOUTS}:
        state = as_plain(state, report)
        if not _sees_space_alone(timesformer, state):
            resize_bicubic(state, timesformer.pos_embed, 1, report)
    _resize(timesformer, state, report)
    if timesformer.attention == "divided" and not any(".temporal_" in key for key in state):
        start_time_from_space(state, (".attn.", ".norm1."), report)
        report.initialised += [key for key in model.state_dict() if ".temporal_fc." in key]
    if timesformer.time_embed is not None and "time_embed" not in state:
        report.initialised.append("time_embed")
    return state


def _sees_space_alone(model: TimeSformer, state: State) -> bool:
    """Whether these are a TimeSformer's with space-only attention, which has an image ViT's names. It is told by the
    classifier: an image network seldom has as many classes as the video model that it is loaded into."""
    head = state.get("head.weight")
    return model.attention == "space" and head is not None and head.shape == model.head.weight.shape


def _resize(model: TimeSformer, state: State, report: LoadReport) -> None:
    """The published loader's rules for TimeSformer checkpoints: nearest neighbour along the one axis of entries."""
    for name, target, prefix in (("pos_embed", model.pos_embed, 1), ("time_embed", model.time_embed, 0)):
        have = state.get(name)
        if have is None or target is None or have.ndim != 3 or have.shape[1] == target.shape[1]:
            continue
        state[name] = nearest_sequence(have, target.shape[1] - prefix, prefix)
        report.resized[name] = f"{have.shape[1]} -> {target.shape[1]} entries, nearest along the sequence as published"


TIMESFORMER_WEIGHTS = WeightRules(LAYOUTS, fit_timesformer, timesformer_traits)
