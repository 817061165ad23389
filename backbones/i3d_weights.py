"""Published layouts of I3D, and how its weights, or an image Inception's, fit a model.

Our names are the image network's (image/inception_weights.py). The publishers count the blocks from the stem on:
`Mixed_3b` is our `inception3a`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .image.inception_weights import INCEPTION_LAYOUTS, drop_auxiliary, inception_traits
from .layouts import Layout, LoadReport, State, WeightRules, renamer
from .lift_weights import inflate_kernels

_BLOCKS = (
    (r"^(backbone\.)?[Cc]onv3d_1a_7x7\.", "conv1."),
    (r"^(backbone\.)?[Cc]onv3d_2b_1x1\.", "conv2."),
    (r"^(backbone\.)?[Cc]onv3d_2c_3x3\.", "conv3."),
    *((rf"^(backbone\.)?[Mm]ixed_{stage}{theirs}\.", rf"inception{stage}{ours}.")
      for stage, ours, theirs in (*((3, *pair) for pair in ("ab", "bc")), *((5, *pair) for pair in ("ab", "bc")),
                                  *((4, *pair) for pair in ("ab", "bc", "cd", "de", "ef")))),
)  # fmt: skip

_rename_pytorch = renamer(
    *_BLOCKS,
    (r"\.b0\.", ".branch1."),
    *((rf"\.b{i}{letter}\.", rf".branch{i + 1}.{j}.") for i in (1, 2, 3) for j, letter in enumerate("ab")),
    (r"^logits\.conv3d\.", "head."),
    (r"\.conv3d\.", ".conv."),
)

_rename_converted = renamer(
    *_BLOCKS,
    *((rf"\.branch_{i}\.", rf".branch{i + 1}.") for i in range(4)),
    (r"^conv3d_0c_1x1\.conv3d\.", "head."),
    (r"\.conv3d\.", ".conv."),
    (r"\.batch3d\.", ".bn."),
)

_rename_sonnet = renamer(
    (r"^(RGB/)?inception_i3d/", ""),
    (r"/", "."),
    *_BLOCKS,
    (r"\.Branch_0\.Conv3d_0a_1x1\.", ".branch1."),
    (r"\.Branch_([12])\.Conv3d_0a_1x1\.", r".branch_\1.0."),
    (r"\.Branch_([12])\.Conv3d_0[ab]_3x3\.", r".branch_\1.1."),  # 0a in block 5b, a slip of the publisher's
    (r"\.branch_1\.", ".branch2."),
    (r"\.branch_2\.", ".branch3."),
    (r"\.Branch_3\.Conv3d_0b_1x1\.", ".branch4.1."),
    (r"^Logits\.Conv3d_0c_1x1\.conv_3d\.", "head."),
    (r"\.conv_3d\.w$", ".conv.weight"),
    (r"^head\.w$", "head.weight"),
    (r"^head\.b$", "head.bias"),
    (r"\.batch_norm\.beta$", ".bn.bias"),
    (r"\.batch_norm\.moving_mean$", ".bn.running_mean"),
    (r"\.batch_norm\.moving_variance$", ".bn.running_var"),
)


def _with_linear_head(state: State) -> State:
    """The classifier, a convolution of one position there, as a matrix."""
    return {key: value.flatten(1) if key == "head.weight" else value for key, value in state.items()}


def _from_sonnet(state: State) -> State:
    """Rename, put the channels first, and add the norms' scale, which is one there."""
    converted: State = {}
    for key, value in _rename_sonnet(state).items():
        if value.ndim == 5 and ".bn." not in key:
            value = value.permute(4, 3, 0, 1, 2)
        converted[key] = value.flatten() if ".bn." in key or key == "head.bias" else value
        if key.endswith(".bn.bias"):
            converted[key.replace("bias", "weight")] = torch.ones_like(converted[key])
    return _with_linear_head(converted)


I3D_LAYOUTS = (
    Layout(
        "I3D (pytorch-i3d)",
        (r"^(backbone\.)?Mixed_3b\.b0\.conv3d\.",),
        lambda state: _with_linear_head(_rename_pytorch(state)),
    ),
    Layout(
        "I3D (kinetics_i3d_pytorch)",
        (r"^mixed_3b\.branch_0\.conv3d\.",),
        lambda state: _with_linear_head(_rename_converted(state)),
    ),
    Layout("I3D (DeepMind, Sonnet)", (r"^(RGB/)?inception_i3d/Mixed_3b/Branch_0/",), _from_sonnet),
    *INCEPTION_LAYOUTS,
)


def i3d_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments."""
    traits = inception_traits(state)
    stem = state.get("conv1.conv.weight")
    if stem is not None and stem.ndim == 5:
        traits["kernel in stem_time"] = stem.shape[2]
    return traits


def fit_i3d(model: nn.Module, state: State, report: LoadReport) -> State:
    """Give image weights time; those of I3D fit as they are."""
    drop_auxiliary(state, report)
    stem = state.get("conv1.conv.weight")
    if stem is not None and stem.ndim == 4:
        report.notes.append("the weights are an image network's, given time")
        inflate_kernels(state, model.state_dict(), model.inflation, report)  # type: ignore[arg-type]
    return state


I3D_WEIGHTS = WeightRules(I3D_LAYOUTS, fit_i3d, i3d_traits)
