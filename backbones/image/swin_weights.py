"""Published layouts of the image Swin, and how its weights fit a model with other windows.

Our names are the official ones: `patch_embed.{proj, norm}, layers.i.blocks.j.{norm1, attn.relative_position_bias_table,
attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2}, layers.i.downsample.{norm, reduction}, norm, head`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..layouts import Layout, LoadReport, State, WeightRules, renamer
from ..lift.windows import relative_offsets, resize_table
from .vit_weights import join_qkv

if TYPE_CHECKING:
    from .swin import Swin

TABLE = "relative_position_bias_table"
_COMPUTED = re.compile(r"(^|\.)(relative_position_index|attn_mask)$|^data_preprocessor\.")


def learnt(convert: Callable[[State], State]) -> Callable[[State], State]:
    """The conversion without what is computed from the architecture: indices and masks."""
    return lambda state: convert({key: value for key, value in state.items() if not _COMPUTED.search(key)})


def renumber_torchvision(state: State, first: int) -> State:
    """torchvision counts stages and the steps between them as one sequence, from `features.{first}` on."""

    def stage(found: re.Match[str]) -> str:
        number = int(found[1]) - first
        return f"layers.{number // 2}.downsample." if number % 2 else f"layers.{number // 2}.blocks."

    return {re.sub(r"^features\.(\d+)\.", stage, key): value for key, value in _mlp_by_name(state).items()}


_mlp_by_name = renamer((r"\.mlp\.0\.", ".mlp.fc1."), (r"\.mlp\.3\.", ".mlp.fc2."))
_stem_by_name = renamer((r"^features\.0\.0\.", "patch_embed.proj."), (r"^features\.0\.2\.", "patch_embed.norm."))


def _from_torchvision(state: State) -> State:
    return renumber_torchvision(_stem_by_name(state), first=1)


def _from_timm(state: State) -> State:
    """timm now puts the step to the next stage at that stage's start, and names its head `head.fc`."""

    def earlier(found: re.Match[str]) -> str:
        return f"layers.{int(found[1]) - 1}.downsample."

    renamed = {re.sub(r"^layers\.(\d+)\.downsample\.", earlier, key): value for key, value in state.items()}
    return {re.sub(r"^head\.fc\.", "head.", key): value for key, value in renamed.items()}


_rename_huggingface = renamer(
    (r"^swin\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(self|relative_position_bias)\.", ".attn."),
    (r"\.attention\.", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)


_BLOCK = r"^layers\.0\.blocks\.0\.attn\.relative_position_bias_table$"

SWIN_LAYOUTS = (
    Layout("timm Swin", (_BLOCK, r"^head\.fc\."), learnt(_from_timm)),
    Layout(
        "timm Swin, features",
        (_BLOCK, r"^layers\.1\.downsample\."),
        learnt(_from_timm),
        never=(r"^layers\.0\.downsample\.",),
    ),
    Layout("Swin (official)", (_BLOCK,), learnt(dict)),
    Layout(
        "torchvision Swin",
        (r"^features\.0\.0\.weight$", r"^features\.1\.0\.attn\.relative_position_bias_table$"),
        learnt(_from_torchvision),
        never=(r"\.cpb_mlp\.",),
    ),
    Layout(
        "Hugging Face Swin",
        (r"^(swin\.)?encoder\.layers\.0\.blocks\.0\.attention\.(self|relative_position_bias)\.relative_position_bias_table$",),
        learnt(lambda state: join_qkv(_rename_huggingface(state))),
    ),
)  # fmt: skip


def swin_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    traits: dict[str, object] = {}
    if "patch_embed.proj.weight" in state:
        kernel = state["patch_embed.proj.weight"].shape
        traits |= {"dim": kernel[0], "patch": tuple(kernel[2:]), "patch_norm": "patch_embed.norm.weight" in state}
    blocks = [(int(m[1]), int(m[2])) for key in state if (m := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.norm1", key))]
    if blocks:
        stages = range(max(blocks)[0] + 1)
        traits["depths"] = tuple(len({j for i, j in blocks if i == stage}) for stage in stages)
        tables = [state.get(f"layers.{stage}.blocks.0.attn.{TABLE}") for stage in stages]
        traits["heads"] = tuple(table.shape[-1] for table in tables if table is not None)
        traits["window"] = f"with tables of {tuple(table.shape[0] for table in tables if table is not None)} entries"
    if "layers.0.blocks.0.mlp.fc1.weight" in state:
        hidden, dim = state["layers.0.blocks.0.mlp.fc1.weight"].shape
        traits["mlp_ratio"] = hidden / dim
    return traits


def square_window(entries: int) -> tuple[int, int] | None:
    """The window whose sides are equal and whose table has so many entries, if there is one."""
    side = math.isqrt(entries)
    return (side // 2 + 1,) * 2 if side * side == entries and side % 2 else None


def tables(model: Swin, state: State) -> Iterator[tuple[str, Tensor, tuple[int, ...]]]:
    """Name and value of each table of relative positions in `state`, and the model's window there."""
    for name, module in model.named_modules():
        key = f"{name}.{TABLE}"
        if hasattr(module, TABLE) and key in state and state[key].ndim == 2:
            yield key, state[key], module.window


def _fit(model: nn.Module, state: State, report: LoadReport) -> State:
    for name, table, window in tables(model, state):  # type: ignore[arg-type]
        old = square_window(table.shape[0])
        if old is not None and table.shape[0] != relative_offsets(window):
            state[name] = resize_table(table, old, window)
            report.resized[name] = f"from window {old} to {window}, bicubic as published"
    return state


SWIN_WEIGHTS = WeightRules(SWIN_LAYOUTS, _fit, swin_traits)
