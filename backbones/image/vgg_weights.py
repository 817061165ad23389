"""Published layouts of VGG-11.

Our names are torchvision's: `features.N` for convolutions and norms, `classifier.{0,3}`; `head` is `classifier.6`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..layouts import Layout, State, WeightRules, as_it_is, renamer

_rename_timm = renamer(
    (r"^pre_logits\.fc1\.", "classifier.0."), (r"^pre_logits\.fc2\.", "classifier.3."), (r"^head\.fc\.", "head.")
)


def _from_timm(state: State) -> State:
    """Rename, and write the fully connected layers, convolutions there, as matrices."""
    renamed = _rename_timm(state)
    return {key: w.flatten(1) if key.startswith("classifier.") and w.ndim == 4 else w for key, w in renamed.items()}


VGG_LAYOUTS = (
    Layout("timm VGG-11", (r"^features\.0\.weight$", r"^pre_logits\.fc1\."), _from_timm),
    Layout(
        "VGG-11 (torchvision's names)",
        (r"^features\.0\.weight$", r"^classifier\.0\."),
        renamer((r"^classifier\.6\.", "head.")),
        never=(r"^features\.[^.]+\.[^.]+\.",),
    ),
)


def vgg_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    traits: dict[str, object] = {"bn": any(key.endswith(".running_mean") for key in state)}
    if "features.0.weight" in state:
        traits["width"] = state["features.0.weight"].shape[0]
    if "classifier.3.weight" in state:
        traits["hidden"] = state["classifier.3.weight"].shape[0]
    return traits


VGG_WEIGHTS = WeightRules(VGG_LAYOUTS, as_it_is, vgg_traits)
