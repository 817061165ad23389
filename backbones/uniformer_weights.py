"""Published layouts of UniFormer, and how its weights, or an image UniFormer's, fit a model.

Our names are the official repository's: those of the image UniFormer, with `blocks{3,4}.i.{t_norm, t_attn}` for split
attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .image.uniformer_weights import (
    MARKS,
    STEM,
    UNIFORMER_IMAGE_LAYOUTS,
    fit_uniformer_image,
    rename_uniformer,
    uniformer_image_traits,
)
from .layouts import Layout, LoadReport, State, WeightRules
from .lift_weights import inflate_kernels

if TYPE_CHECKING:
    from .uniformer import UniFormer

_MMACTION = "UniFormer (MMAction2)"

LAYOUTS = (
    Layout("UniFormer (official)", MARKS, rename_uniformer, never=(r"^backbone\.",), axes=((STEM, 5),)),
    Layout(_MMACTION, MARKS, rename_uniformer, axes=((STEM, 5),)),
    *UNIFORMER_IMAGE_LAYOUTS,
)


def fit_uniformer(model: nn.Module, state: State, report: LoadReport) -> State:
    """Give time to an image UniFormer's weights: a kernel's share to each of its frames, depthwise ones included."""
    uniformer: UniFormer = model  # type: ignore[assignment]
    state, own = fit_uniformer_image(model, state, report), model.state_dict()
    if report.layout == _MMACTION and uniformer.norm_eps != 1e-5:
        report.notes.append(
            f"MMAction2 computes its blocks' LayerNorms with eps 1e-5, this model with {uniformer.norm_eps:g}, as the "
            "weights were trained; norm_eps=1e-5 gives the numbers of MMAction2"
        )
    inflate_kernels(state, own, "mean", report)
    if uniformer.attention == "split" and not any(".t_attn." in key for key in state):
        report.initialised += [key for key in own if ".t_attn." in key or ".t_norm." in key]
    return state


def uniformer_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The image network's traits, how attention deals with time, and the embeddings' kernels in time."""
    embeds = [state.get(f"patch_embed{stage}.proj.weight") for stage in (1, 2, 3, 4)]
    traits = uniformer_image_traits(state) | {
        "attention": "split" if any(".t_attn." in key for key in state) else "joint",
        "patch_t": tuple(embed.shape[2] for embed in embeds if embed is not None and embed.ndim == 5),
    }
    del traits["layer_scale"]
    return traits


UNIFORMER_WEIGHTS = WeightRules(LAYOUTS, fit_uniformer, uniformer_traits)
