"""Published layouts of C3D, and how its weights, or an image VGG-11's, fit a model.

Our names are the image network's (image/vgg_weights.py): `features.N`, `classifier.0` and `.3` for fc6 and fc7, `head`
for fc8. The weights that go about as "c3d-pretrained" have them already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .image.vgg_weights import VGG_LAYOUTS, vgg_traits
from .layouts import Layout, LoadReport, State, WeightRules, renamer
from .lift_weights import inflate_kernels

if TYPE_CHECKING:
    from .c3d import C3D

_CONVOLUTIONS = ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")
_PLAIN = (0, 3, 6, 8, 11, 13, 16, 18)  # their places in `features`
_NORMED = (0, 4, 8, 11, 15, 18, 22, 25)  # and where a norm follows each
_FULL = ((r"^fc6\.", "classifier.0."), (r"^fc7\.", "classifier.3."), (r"^fc8\.", "head."))

_rename_port = renamer(
    (r"^conv([12])\.", r"conv\1a."),
    *((rf"^conv{conv}\.", f"features.{i}.") for conv, i in zip(_CONVOLUTIONS, _PLAIN, strict=True)),
    *_FULL,
)


def _from_mmaction(state: State) -> State:
    places = _NORMED if any(".bn." in key for key in state) else _PLAIN
    pairs = list(zip(_CONVOLUTIONS, places, strict=True))
    rename = renamer(
        (r"^backbone\.", ""),
        (r"^cls_head\.fc_cls\.", "head."),
        *((rf"^conv{conv}\.conv\.", f"features.{i}.") for conv, i in pairs),
        *((rf"^conv{conv}\.bn\.", f"features.{i + 1}.") for conv, i in pairs),
        *_FULL,
    )
    return rename(state)


C3D_LAYOUTS = (
    Layout("C3D (MMAction2)", (r"^(backbone\.)?conv1a\.conv\.", r"^(backbone\.)?fc6\."), _from_mmaction),
    Layout("C3D (PyTorch ports)", (r"^conv3a\.weight$", r"^fc6\."), _rename_port),
    *VGG_LAYOUTS,
)


def c3d_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    traits = vgg_traits(state)
    full = state.get("classifier.0.weight")
    if full is not None and "width" in traits:
        traits["frames and size of a map with"] = f"{full.shape[1] // (8 * int(str(traits['width'])))} positions"
    return traits


def fit_c3d(model: nn.Module, state: State, report: LoadReport) -> State:
    """Give image weights time, without the layers that saw a whole image; those of C3D fit as they are."""
    c3d: C3D = model  # type: ignore[assignment]
    own = model.state_dict()
    first = state.get("features.0.weight")
    if first is not None and first.ndim == 4:
        report.notes.append("the weights are an image network's, given time")
        inflate_kernels(state, own, c3d.inflation, report)
        for key in [key for key in state if key.startswith("classifier.")]:
            del state[key]
            report.dropped[key] = "belongs to the fully connected layers, which saw a whole image"
            report.initialised.append(key)
    silent = [key for key in own if key.startswith("features.") and key.endswith(".bias") and key not in state]
    silent = [key for key in silent if own[key.replace("bias", "weight")].ndim == 5]
    if silent and any(key.endswith(".running_mean") for key in state):  # a norm takes what a bias adds
        state |= {key: own[key].new_zeros(own[key].shape) for key in silent}
        report.notes.append("its convolutions have no bias before their norms; ours were set to zero")
    return state


C3D_WEIGHTS = WeightRules(C3D_LAYOUTS, fit_c3d, c3d_traits)
