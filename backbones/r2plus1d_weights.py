"""Published layouts of R(2+1)D: those of the video ResNets, with the names inside a factorised convolution."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .layouts import State, WeightRules
from .resnet3d_weights import Settings, fit_resnet3d, resnet3d_layouts, resnet3d_traits

_TORCHVISION = (
    (r"^stem\.0\.", "conv1.space."),
    (r"^stem\.1\.", "conv1.mid_bn."),
    (r"^stem\.3\.", "conv1.time."),
    (r"^stem\.4\.", "bn1."),
    *((rf"\.conv(\d)\.0\.{i}\.", rf".conv\1.{part}.") for i, part in ((0, "space"), (1, "mid_bn"), (3, "time"))),
)
_MMACTION = tuple(
    rename
    for theirs, ours in (("conv_s", "space"), ("bn_s", "mid_bn"), ("conv_t", "time"))
    for rename in (
        (rf"\.downsample\.conv\.{theirs}\.", f".downsample.0.{ours}."),
        (rf"(^|\.)conv(\d)\.conv\.{theirs}\.", rf"\1conv\2.{ours}."),
    )
)
_PYTORCHVIDEO = (
    (r"\.branch2\.conv_b\.conv_t\.", ".conv2.time."),
    (r"\.branch2\.conv_b\.norm\.", ".conv2.mid_bn."),
    (r"\.branch2\.conv_b\.conv_xy\.", ".conv2.space."),
)


def r2plus1d_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    traits = resnet3d_traits(state)
    if "conv1.space.weight" in state:
        traits["stem_mid"] = state["conv1.space.weight"].shape[0]
    elif "conv1.weight" in state and state["conv1.weight"].ndim == 5:
        traits["stem_mid"] = None
    norms = [state.get(f"layer2.0.{conv}.mid_bn.weight") for conv in ("conv1", "conv2")]
    convs = [norm.shape[0] for norm in norms if norm is not None]
    if len(convs) == 2:
        traits["midplanes"] = "block" if convs[0] == convs[1] else "conv"
    elif convs:
        traits["channels between space and time in layer2.0"] = convs[0]
    traits["factorise_shortcut"] = any(".downsample.0.space." in key for key in state)
    return traits


def _of_vmz(state: State) -> dict[str, object]:
    """VMZ has torchvision's names, but not its channels between space and time, nor the epsilon of its norms."""
    return {"norm_eps": 1e-3 if r2plus1d_traits(state).get("midplanes") == "conv" else 1e-5}


_SETTINGS: dict[str, Settings] = {"torchvision": _of_vmz, "mmaction": lambda state: {"stem_pool": True}}
R2PLUS1D_WEIGHTS = WeightRules(
    resnet3d_layouts("R(2+1)D", _TORCHVISION, _MMACTION, pytorchvideo=_PYTORCHVIDEO, settings=_SETTINGS),
    fit_resnet3d,
    r2plus1d_traits,
)
