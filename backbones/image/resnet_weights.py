"""Published layouts of the image ResNet, and the architecture that weights show.

Our names are torchvision's and timm's: `conv1, bn1, layerL.B.{conv1, bn1, conv2, bn2, conv3, bn3, downsample.0,
downsample.1}`, with `se.{fc1, fc2}` (timm) or `cbam.{channel.mlp, spatial}` for attention, and `head` for `fc`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..layouts import Layout, WeightRules, as_it_is, renamer

_plain = renamer(
    (r"^backbone\.", ""),
    (r"^(fc|classifier|last_linear|head\.fc)\.", "head."),
    (r"\.cbam\.ChannelGate\.", ".cbam.channel."),
    (r"\.cbam\.SpatialGate\.spatial\.", ".cbam.spatial."),
)

_from_huggingface = renamer(
    (r"^resnet\.", ""),
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.3\.layers\.", "layer4."),
    (r"^encoder\.stages\.2\.layers\.", "layer3."),
    (r"^encoder\.stages\.1\.layers\.", "layer2."),
    (r"^encoder\.stages\.0\.layers\.", "layer1."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    *((rf"\.layer\.{i}\.convolution\.", f".conv{i + 1}.") for i in range(3)),
    *((rf"\.layer\.{i}\.normalization\.", f".bn{i + 1}.") for i in range(3)),
    (r"^classifier\.1\.", "head."),
)

_BLOCK = r"^(backbone\.)?layer1\.0\.conv1\.weight$"
_OTHERS = (r"conv1_custom", r"conv_normal", r"^stem\.", r"^layer0\.")

RESNET_LAYOUTS = (
    Layout("ResNet (torchvision, timm)", (_BLOCK, r"^(backbone\.)?bn1\."), _plain, never=_OTHERS),
    Layout("ResNet (Hugging Face)", (r"^(resnet\.)?encoder\.stages\.0\.layers\.0\.layer\.0\.conv",), _from_huggingface),
)


def resnet_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The architecture that weights under our names show, in the words of `create_model`'s arguments.

    The names inside a convolution that a lift has split (`conv1.space`, `conv2.depth`) are looked through.
    """
    traits: dict[str, object] = {}
    depths = [0, 0, 0, 0]
    for key in state:
        if found := re.match(r"layer([1-4])\.(\d+)\.", key):
            depths[int(found[1]) - 1] = max(depths[int(found[1]) - 1], int(found[2]) + 1)
    if any(depths):
        traits["layers"] = tuple(depths)
        traits["block"] = "bottleneck" if any(".conv3." in key for key in state) else "basic"
        traits["shortcut"] = "conv" if any(".downsample." in key for key in state) else "zero"
        kinds = [kind for kind in ("se", "cbam") if any(f".{kind}." in key for key in state)]
        traits["attention"] = kinds[0] if kinds else None
    if "bn1.weight" in state:
        traits["width"] = state["bn1.weight"].shape[0]
    if "conv1.weight" in state:
        traits["stem_kernel"] = state["conv1.weight"].shape[-1]
    middle, last = state.get("layer1.0.conv2.weight"), state.get("layer1.0.bn3.weight")
    if middle is not None and last is not None:
        groups = middle.shape[0] // middle.shape[1]
        traits |= {"groups": groups, "width_per_group": middle.shape[1] * 64 * 4 // last.shape[0]}
    return traits


RESNET_WEIGHTS = WeightRules(RESNET_LAYOUTS, as_it_is, resnet_traits)
