"""Published layouts of Inception-v1 as an image network.

Our names are torchvision's: `conv1.{conv,bn}`, `inception3a.{branch1, branch2.0, branch2.1, branch3.0, branch3.1,
branch4.1}.{conv,bn}`, with `head` for `fc`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ..layouts import Layout, LoadReport, State, WeightRules, renamer

INCEPTION_LAYOUTS = (
    Layout(
        "torchvision GoogLeNet",
        (r"^inception3a\.branch1\.conv\.", r"^conv1\.conv\."),
        renamer((r"^fc\.", "head.")),
    ),
)


def inception_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    traits: dict[str, object] = {}
    if "conv1.conv.weight" in state:
        traits["width"] = state["conv1.conv.weight"].shape[0]
    if "inception3a.branch3.1.conv.weight" in state:
        traits["large_kernel"] = state["inception3a.branch3.1.conv.weight"].shape[-1]
    return traits


def drop_auxiliary(state: State, report: LoadReport) -> None:
    """Take out the two classifiers that only help training."""
    for key in [key for key in state if re.match(r"aux[12]\.", key)]:
        del state[key]
        report.dropped[key] = "auxiliary classifiers only serve training"


def _fit(model: nn.Module, state: State, report: LoadReport) -> State:
    drop_auxiliary(state, report)
    return state


INCEPTION_WEIGHTS = WeightRules(INCEPTION_LAYOUTS, _fit, inception_traits)
