"""Published layouts of Video Swin, and how its weights, or an image Swin's, fit a model.

Our names are the official repository's without `backbone.`, which are those of the image Swin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from .image.swin_weights import (
    SWIN_LAYOUTS,
    learnt,
    renumber_torchvision,
    square_window,
    swin_traits,
    tables,
)
from .layouts import Layout, LoadReport, State, WeightRules, renamer
from .lift.inflate import inflate_weight
from .lift.windows import relative_offsets, resize_table

if TYPE_CHECKING:
    from .video_swin import VideoSwin

_from_mmaction = renamer((r"^backbone\.", ""), (r"^norm3\.", "norm."), (r"^(cls_head\.fc_cls|fc)\.", "head."))


def _from_torchvision(state: State) -> State:
    return renumber_torchvision(state, first=0)


_BLOCK = r"^backbone\.layers\.0\.blocks\.0\.attn\.relative_position_bias_table$"

LAYOUTS = (
    Layout("Video Swin (MMAction2)", (_BLOCK, r"^backbone\.norm3\."), learnt(_from_mmaction)),
    Layout("Video Swin (official)", (_BLOCK,), learnt(_from_mmaction)),
    Layout(
        "Video Swin (torchvision)",
        (r"^patch_embed\.proj\.", r"^features\.0\.0\.attn\.relative_position_bias_table$"),
        learnt(_from_torchvision),
    ),
    *SWIN_LAYOUTS,
)


def fit_video_swin(model: nn.Module, state: State, report: LoadReport) -> State:
    """Bring Video Swin or image Swin weights to this model: give them time, resize tables of relative positions."""
    swin: VideoSwin = model  # type: ignore[assignment]
    proj = state.get("patch_embed.proj.weight")
    image = proj is not None and proj.ndim == 4
    for name, table, window in tables(swin, state):
        if image:
            state[name] = _with_time(name, table, window, report)
        elif table.shape[0] != relative_offsets(window):
            old = _clip_window(table.shape[0], window)
            if old is None:
                continue
            state[name] = resize_table(table, old, window)
            how = ["bicubic as published"] * (old[1:] != window[1:]) + ["linear in time"] * (old[0] != window[0])
            report.resized[name] = f"from window {old} to {window}, {' and '.join(how)}"
    if proj is not None and image:
        frames = swin.patch_embed.proj.kernel_size[0]
        state["patch_embed.proj.weight"] = inflate_weight(proj, frames)
        report.inflated["patch_embed.proj.weight"] = f"repeated over {frames} frames and divided by {frames}"
    return state


def _with_time(name: str, table: Tensor, window: tuple[int, ...], report: LoadReport) -> Tensor:
    """An image's table for windows with a side in time: the same for every offset in time, as published."""
    old, offsets = square_window(table.shape[0]), 2 * window[0] - 1
    if old is not None and table.shape[0] != relative_offsets(window[1:]):
        table = resize_table(table, old, window[1:])
        report.resized[name] = f"from window {old} to {window[1:]}, bicubic as published"
    report.inflated[name] = f"repeated for {offsets} offsets in time"
    return table.repeat(offsets, 1)


def _clip_window(entries: int, window: tuple[int, ...]) -> tuple[int, ...] | None:
    """The window that a table was made for: with the model's sides in space, or its side in time and others in space,
    or else the largest square in space. None if there is no such window."""
    offsets, rest = divmod(entries, relative_offsets(window[1:]))
    if not rest and offsets % 2:
        return (offsets // 2 + 1, *window[1:])
    for offsets in (2 * window[0] - 1, *range(1, entries + 1, 2)):
        space = square_window(entries // offsets) if entries % offsets == 0 else None
        if space is not None and space != (1, 1):
            return (offsets // 2 + 1, *space)
    return None


VIDEO_SWIN_WEIGHTS = WeightRules(LAYOUTS, fit_video_swin, swin_traits)
