"""Published layouts of P3D, and how image ResNets' weights fit it: S takes those of the 3 x 3 convolution."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from .image.resnet_weights import RESNET_LAYOUTS, resnet_traits
from .layouts import Layout, LoadReport, State, WeightRules, renamer
from .resnet3d_weights import inflate_state

_rename_port = renamer(
    (r"^conv1_custom\.", "conv1."),
    (r"^fc\.", "head."),
    (r"(layer4\.\d+)\.conv_normal\.", r"\1.conv2."),
    (r"(layer4\.\d+)\.bn_normal\.", r"\1.bn2."),
    (r"(layer[1-3]\.\d+)\.conv2\.", r"\1.conv2.space."),
    (r"(layer[1-3]\.\d+)\.bn2\.", r"\1.conv2.space_bn."),
    (r"(layer[1-3]\.\d+)\.conv3\.", r"\1.conv2.time."),
    (r"(layer[1-3]\.\d+)\.bn3\.", r"\1.conv2.time_bn."),
    (r"(layer\d\.\d+)\.conv4\.", r"\1.conv3."),
    (r"(layer\d\.\d+)\.bn4\.", r"\1.bn3."),
)


def _from_port(state: State) -> State:
    """Rename; the last stage is of two-dimensional convolutions there, of one frame here."""
    renamed = _rename_port(state)
    return {key: value.unsqueeze(2) if value.ndim == 4 else value for key, value in renamed.items()}


LAYOUTS = (
    Layout(
        "P3D (pseudo-3d-pytorch)",
        (r"^conv1_custom\.", r"^layer4\.0\.conv_normal\."),
        _from_port,
        settings=lambda state: {"form": "port"},
    ),
    Layout("P3D", (r"^layer1\.0\.conv2\.space\.", r"^layer1\.0\.conv2\.space_bn\."), dict),
    *RESNET_LAYOUTS,
)


_MIDDLE = r"^(layer[1-3]\.\d+)\.(conv|bn)2\."


def _place(middle: re.Match[str]) -> str:
    return f"{middle[1]}.conv2.{'space' if middle[2] == 'conv' else 'space_bn'}."


def fit_p3d(model: nn.Module, state: State, report: LoadReport) -> State:
    """Give an image ResNet's weights their places: each 3 x 3 of the first three stages becomes S; T is new."""
    stem = state.get("conv1.weight")
    if stem is None or stem.ndim != 4:
        return state
    report.notes.append("the weights are an image network's, given time; here a block strides in its first convolution")
    placed = {re.sub(_MIDDLE, _place, key): value for key, value in state.items()}
    own = model.state_dict()
    report.initialised += [key for key in own if re.search(r"\.conv2\.time(_bn)?\.", key)]
    return inflate_state(placed, own, getattr(model, "inflation", "mean"), report)


def p3d_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    return {**resnet_traits(state), "pseudo-3D": any(".conv2.time." in key for key in state)}


P3D_WEIGHTS = WeightRules(LAYOUTS, fit_p3d, p3d_traits)
