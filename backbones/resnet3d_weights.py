"""Published layouts of the video ResNets, and how image ResNets' weights fit them.

Our names are those of the image ResNet (image/resnet_weights.py). A family whose lift splits convolutions adds the
names inside them by `resnet3d_layouts(...)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from .image.resnet_weights import RESNET_LAYOUTS, resnet_traits
from .layouts import Layout, LoadReport, State, WeightRules, no_settings, renamer
from .lift.inflate import How
from .lift_weights import inflate_kernels

Renames = Sequence[tuple[str, str]]
Settings = Callable[[State], dict[str, object]]

_TORCHVISION = (
    (r"^stem\.0\.", "conv1."),
    (r"^stem\.1\.", "bn1."),
    (r"\.conv(\d)\.0\.(?=weight$|bias$)", r".conv\1."),
    (r"\.conv(\d)\.1\.(?=\w+$)", r".bn\1."),
    (r"^fc\.", "head."),
)

_MMACTION = (
    (r"^backbone\.", ""),
    (r"^cls_head\.fc_cls\.", "head."),
    (r"(^|\.)conv(\d)\.conv\.(?=weight$|bias$)", r"\1conv\2."),
    (r"(^|\.)conv(\d)\.bn\.(?=\w+$)", r"\1bn\2."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.bn\.", ".downsample.1."),
)

_SLOWFAST = (
    (r"^s1\.pathway0_stem\.conv\.", "conv1."),
    (r"^s1\.pathway0_stem\.bn\.", "bn1."),
    *((rf"^s{i + 1}\.pathway0_res(\d+)\.", rf"layer{i}.\1.") for i in range(1, 5)),
    (r"\.branch1\.", ".downsample.0."),
    (r"\.branch1_bn\.", ".downsample.1."),
    *((rf"\.branch2\.{a}\.", f".conv{i}.") for i, a in enumerate("abc", 1)),
    *((rf"\.branch2\.{a}_bn\.", f".bn{i}.") for i, a in enumerate("abc", 1)),
    (r"^head\.projection\.", "head."),
)

_PYTORCHVIDEO = (
    (r"^blocks\.0\.conv\.", "conv1."),
    (r"^blocks\.0\.norm\.", "bn1."),
    (r"^blocks\.\d+\.proj\.", "head."),
    (r"^stage(\d)\.res_blocks\.", r"layer\1."),
    (r"\.branch1_conv\.", ".downsample.0."),
    (r"\.branch1_norm\.", ".downsample.1."),
    *((rf"\.branch2\.conv_{a}\.", f".conv{i}.") for i, a in enumerate("abc", 1)),
    *((rf"\.branch2\.norm_{a}\.", f".bn{i}.") for i, a in enumerate("abc", 1)),
)


def resnet3d_layouts(
    family: str = "video ResNet",
    torchvision: Renames = (),
    mmaction: Renames = (),
    slowfast: Renames = (),
    pytorchvideo: Renames = (),
    marks: Mapping[str, tuple[str, ...]] | None = None,
    settings: Mapping[str, Settings] | None = None,
) -> tuple[Layout, ...]:
    """The layouts of a family of video ResNets, by the names of its publishers.

    Each `Renames`, (pattern, replacement) pairs, takes the names inside a split convolution to ours and is applied to
    the published key before the common renaming, which leaves alone what it no longer recognises: e.g. for (2+1)D
    `(r"\\.conv(\\d)\\.0\\.0\\.", r".conv\\1.space.")`. By publisher, `marks` adds patterns some key must have, and
    `settings` what its network computes with (see `Layout`).
    """
    more, told = marks or {}, settings or {}
    pytorchvideo_rename = renamer(*pytorchvideo, *_PYTORCHVIDEO)
    return (
        Layout(
            f"{family} (torchvision, VMZ)",
            (r"^stem\.0\.", r"^layer1\.0\.conv1\.0\.", *more.get("torchvision", ())),
            renamer(*torchvision, *_TORCHVISION),
            settings=told.get("torchvision", no_settings),
        ),
        Layout(
            f"{family} (MMAction2)",
            (r"^(backbone\.)?layer1\.0\.conv1\.(conv|0)\.", *more.get("mmaction", ())),
            renamer(*mmaction, *_MMACTION),
            never=(r"^stem\.",),
            settings=told.get("mmaction", no_settings),
        ),
        Layout(
            f"{family} (PySlowFast)",
            (r"^s2\.pathway0_res0\.branch2\.", *more.get("slowfast", ())),
            renamer(*slowfast, *_SLOWFAST),
            never=(r"pathway1",),
        ),
        Layout(
            f"{family} (PyTorchVideo)",
            (r"^blocks\.1\.res_blocks\.0\.branch2\.", *more.get("pytorchvideo", ())),
            lambda state: pytorchvideo_rename(_number_stages(state)),
            never=(r"multipathway",),
            settings=told.get("pytorchvideo", no_settings),
        ),
        Layout(f"{family}, or image ResNet", (r"^(backbone\.)?layer1\.0\.conv1\.(\w+\.)?weight$",),
               RESNET_LAYOUTS[0].convert, never=(*RESNET_LAYOUTS[0].never, r"\.conv1\.conv\.")),
        *RESNET_LAYOUTS[1:],
    )  # fmt: skip


def _mmaction_strides(state: State) -> dict[str, object]:
    """MMAction2's I3D, which a stem of five frames gives away, strides twice before its first stage."""
    stem = state.get("conv1.weight")
    return {} if stem is None or tuple(stem.shape[2:-2]) != (5,) else {"stem_stride_t": 2, "pool_stride_t": 2}


def fit_resnet3d(model: nn.Module, state: State, report: LoadReport) -> State:
    """Give image weights time; those of a video network fit as they are."""
    stem = state.get("conv1.weight")
    if stem is None or stem.ndim != 4:
        return state
    report.notes.append("the weights are an image network's, given time")
    return inflate_state(state, model.state_dict(), getattr(model, "inflation", "mean"), report)


def inflate_state(state: State, own: Mapping[str, Tensor], how: How, report: LoadReport) -> State:
    """Image weights under our names, as far as the video network `own` has a use for them.

    A kernel whose channels agree is inflated. One that the lift has replaced by something else is dropped, together
    with the norm after it, whose statistics it made; the report names each, and what is new.
    """
    fitted = dict(state)
    alike = {key: own[key] for key in state if key in own and own[key].shape[:2] == state[key].shape[:2]}
    inflate_kernels(fitted, alike, how, report)
    for key, value in state.items():
        if fitted[key].ndim == 4 and (here := _replacement(key, value, own.get(key), own)):
            report.dropped[key] = f"{tuple(value.shape)} has no counterpart: here it is {here}"
            del fitted[key]
    for norm, conv in [(_norm_after(key), key) for key in report.dropped]:
        for key in [key for key in fitted if key.startswith(norm)]:
            del fitted[key]
            report.dropped[key] = f"belongs to {conv}, which was dropped"
    gone = {key.rpartition(".")[0] for key in report.dropped}
    report.initialised += [
        key for key in own if key not in fitted and any(key.startswith(f"{module}.") for module in gone)
    ]
    return fitted


def resnet3d_traits(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The image ResNet's traits, and the kernels in time of stem and stages."""
    traits = resnet_traits(state)
    if "conv1.weight" in state and state["conv1.weight"].ndim == 5:
        traits["stem_kernel_t"] = state["conv1.weight"].shape[2]
    kernels: dict[str, list[int]] = {}
    for key in sorted(state, key=lambda key: [int(part) if part.isdigit() else 0 for part in key.split(".")]):
        if (found := re.fullmatch(r"(layer[1-4])\.\d+\.(conv[12])\.weight", key)) and state[key].ndim == 5:
            kernels.setdefault(f"time kernels of {found[1]} {found[2]}", []).append(state[key].shape[2])
    return traits | {name: tuple(sizes) for name, sizes in kernels.items()}


def _number_stages(state: State) -> State:
    """PyTorchVideo counts a pool between stages as a block of its own: number the stages by themselves."""
    blocks = sorted({int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.res_blocks\.", key))})
    stage = {str(block): i for i, block in enumerate(blocks, 1)}
    return {
        re.sub(r"^blocks\.(\d+)(?=\.res_blocks\.)", lambda found: f"stage{stage[found[1]]}", key): value
        for key, value in state.items()
    }


def _replacement(key: str, value: Tensor, target: Tensor | None, own: Mapping[str, Tensor]) -> str:
    """What stands in the video network where the image network has the kernel `key`; empty if nothing does."""
    module = key.rpartition(".")[0]
    if target is not None:
        separate = target.shape[0] == value.shape[0] and target.shape[1] == 1 < value.shape[1]
        return f"a depthwise {tuple(target.shape)}" if separate else ""
    inside = [name for name in own if name.startswith(f"{module}.") and own[name].ndim > 1]
    if inside:
        return " and ".join(f"{name} {tuple(own[name].shape)}" for name in inside)
    stage_exists = any(name.startswith(key.split(".downsample.")[0] + ".") for name in own)
    return "a shortcut without parameters" if ".downsample." in key and stage_exists else ""


def _norm_after(conv: str) -> str:
    """The prefix of the norm that follows a convolution's weight."""
    module = conv.rpartition(".")[0]
    return re.sub(r"downsample\.0$", "downsample.1", re.sub(r"conv(\d)$", r"bn\1", module)) + "."


LAYOUTS = resnet3d_layouts(settings={"mmaction": _mmaction_strides})
RESNET3D_WEIGHTS = WeightRules(LAYOUTS, fit_resnet3d, resnet3d_traits)
