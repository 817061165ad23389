"""Published layouts of CSN: those of the video ResNets, with the names inside a separated convolution."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .layouts import WeightRules
from .resnet3d_weights import Settings, fit_resnet3d, resnet3d_layouts, resnet3d_traits

_IP_TORCHVISION = tuple(
    (rf"\.conv2\.0\.{i}\.", f".conv2.{part}.") for i, part in ((0, "point"), (1, "point_bn"), (2, "depth"))
)
_IP_MMACTION = (
    (r"\.conv2\.0\.conv\.", ".conv2.point."),
    (r"\.conv2\.0\.bn\.", ".conv2.point_bn."),
    (r"\.conv2\.1\.conv\.", ".conv2.depth."),
    (r"\.conv2\.1\.bn\.", ".bn2."),
)
_IR_MMACTION = ((r"\.conv2\.0\.conv\.", ".conv2."), (r"\.conv2\.0\.bn\.", ".bn2."))
_IP_MARKS = {"torchvision": (r"\.conv2\.0\.2\.",), "mmaction": (r"\.conv2\.1\.conv\.",)}
_IR_MARKS = {"mmaction": (r"\.conv2\.(0\.)?conv\.",)}


def csn_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    traits = {k: v for k, v in resnet3d_traits(state).items() if k not in ("groups", "width_per_group")}
    if "layer1.0.conv2.point.weight" in state:
        traits["mode"] = "ip"
    elif "layer1.0.conv2.weight" in state:
        traits["mode"] = "ir" if state["layer1.0.conv2.weight"].shape[1] == 1 else "neither, its channels are together"
    return traits


def _eps(value: float) -> Settings:
    return lambda state: {"norm_eps": value}


_SETTINGS = {"torchvision": _eps(1e-3), "mmaction": _eps(1e-3), "pytorchvideo": _eps(1e-5)}
_IP = resnet3d_layouts("ip-CSN", _IP_TORCHVISION, _IP_MMACTION, marks=_IP_MARKS, settings=_SETTINGS)
_IR = resnet3d_layouts("CSN", (), _IR_MMACTION, marks=_IR_MARKS, settings=_SETTINGS)
LAYOUTS = (*(layout for layout in _IP if "torchvision, VMZ" in layout.name or "MMAction2" in layout.name), *_IR)
CSN_WEIGHTS = WeightRules(LAYOUTS, fit_resnet3d, csn_traits)
