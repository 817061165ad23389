"""Augmentation of clips: each operation and the whole RandAugment recipe beside Pillow and torchvision, in one run.

    python benchmarks/augment.py                 # one thread on the CPU, then a GPU if there is one; two minutes
    python benchmarks/augment.py --frames 8 --size 160 --rounds 20

Prints Markdown tables: milliseconds a clip of ours, the median of alternating rounds, and the peer's time over ours
with its quartiles. All take and give uint8 tensors; Pillow goes by way of its images, frame by frame. The recipe is
m7-n4-mstd0.5-inc1, two operations a clip on average: timm's is that of the papers, on Pillow; torchvision's draws 2 of
its own 14 operations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from tubelet.pipeline.config import AugmentConfig
from tubelet.pipeline.inputs.mixing import mix
from tubelet.video import Augmentation, Erasing, RandAugment, augment

FILL = (114, 114, 114)
RECIPE = "m7-n4-mstd0.5-inc1"
BILINEAR = v2.InterpolationMode.BILINEAR
Work = Callable[[], object]


def by_pillow(clip: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(change(Image.fromarray(frame))) for frame in clip.numpy()]))


def shear(frame: Image.Image) -> Image.Image:
    return frame.transform(
        frame.size, Image.Transform.AFFINE, (1, 0.2, 0, 0, 1, 0), Image.Resampling.BILINEAR, fillcolor=FILL
    )


def rotate(frame: Image.Image) -> Image.Image:
    return frame.rotate(21, Image.Resampling.BILINEAR, fillcolor=FILL)


# name: ours on (T, H, W, 3), Pillow on a frame, torchvision on (T, 3, H, W)
OPERATIONS = {
    "autocontrast": (augment.autocontrast, ImageOps.autocontrast, F.autocontrast),
    "equalize": (augment.equalize, ImageOps.equalize, F.equalize),
    "invert": (Tensor.bitwise_not, ImageOps.invert, F.invert),
    "rotate": (
        lambda x: augment.rotate(x, 21, FILL),
        rotate,
        lambda x: F.rotate(x, 21, BILINEAR, fill=FILL),
    ),
    "shear": (
        lambda x: augment.shear_x(x, 0.2, FILL),
        shear,
        lambda x: F.affine(x, 0, [0, 0], 1.0, [11.3, 0], BILINEAR, FILL, [0, 0]),
    ),
    "posterize": (lambda x: augment.posterize(x, 2), lambda x: ImageOps.posterize(x, 2), lambda x: F.posterize(x, 2)),
    "solarize": (lambda x: augment.solarize(x, 77), lambda x: ImageOps.solarize(x, 77), lambda x: F.solarize(x, 77)),
    "saturation": (
        lambda x: augment.adjust_saturation(x, 1.6),
        lambda x: ImageEnhance.Color(x).enhance(1.6),
        lambda x: F.adjust_saturation(x, 1.6),
    ),
    "contrast": (
        lambda x: augment.adjust_contrast(x, 1.6),
        lambda x: ImageEnhance.Contrast(x).enhance(1.6),
        lambda x: F.adjust_contrast(x, 1.6),
    ),
    "brightness": (
        lambda x: augment.adjust_brightness(x, 1.6),
        lambda x: ImageEnhance.Brightness(x).enhance(1.6),
        lambda x: F.adjust_brightness(x, 1.6),
    ),
    "sharpness": (
        lambda x: augment.adjust_sharpness(x, 1.6),
        lambda x: ImageEnhance.Sharpness(x).enhance(1.6),
        lambda x: F.adjust_sharpness(x, 1.6),
    ),
}


def operations(clips: Tensor) -> dict[str, dict[str, Work]]:
    """name of the work: name of who does it: the work. `ours` is the first."""
    planes, host = clips[0].permute(0, 3, 1, 2).contiguous(), clips[0].cpu()
    clip = planes.permute(0, 2, 3, 1)  # as the operations of a recipe find it
    found: dict[str, dict[str, Work]] = {}
    for name, (ours, pillow, torchvision) in OPERATIONS.items():
        found[name] = {
            "ours": lambda ours=ours: ours(clip),
            "Pillow": lambda pillow=pillow: by_pillow(host, pillow),
            "torchvision": lambda torchvision=torchvision: torchvision(planes),
        }
    found["hue"] = {"ours": lambda: augment.adjust_hue(clip, 0.1)}
    floats = clips.permute(0, 4, 1, 2, 3).float()
    labels = torch.arange(len(clips), device=clips.device)
    rng = np.random.default_rng(0)
    for name, config in (("mixup", AugmentConfig(mixup=0.8)), ("CutMix", AugmentConfig(cutmix=1.0))):
        found[name] = {"ours": lambda config=config: mix(floats, labels, 400, config, rng)}
    found["erasing"] = {"ours": lambda: Erasing(1.0)(floats, rng)}
    return found


def recipe(clips: Tensor) -> dict[str, Work]:
    policy, rng = Augmentation(RandAugment.parse(RECIPE), fill=FILL), np.random.default_rng(0)
    unmirrored = [False] * len(clips)
    timm = rand_augment_transform(f"rand-{RECIPE}", {"img_mean": FILL})
    torchvision = v2.RandAugment(2, 21, interpolation=BILINEAR, fill=list(FILL))  # 21 of 31 is 7 of 10
    host, planes = clips.cpu(), clips.permute(0, 1, 4, 2, 3).contiguous()
    return {
        "ours": lambda: policy(clips, unmirrored, rng),
        "timm, each frame": lambda: [by_pillow(clip, timm) for clip in host],
        "torchvision, each frame": lambda: [torch.stack([torchvision(frame) for frame in clip]) for clip in planes],
        "torchvision, whole clips": lambda: [torchvision(clip) for clip in planes],
    }


def measure(works: dict[str, Work], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of each, in alternating rounds after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: values[1:] for name, values in times.items()}


def show(name: str, times: dict[str, list[float]], clips: int) -> None:
    ours = times.pop("ours")
    cells = [f"{statistics.median(ours) / clips:.1f}"]
    for values in times.values():
        low, middle, high = statistics.quantiles([a / b for a, b in zip(values, ours, strict=True)], n=4)
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    cells += [""] * (2 - len(times))
    print("| " + " | ".join([name, *cells]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--clips", type=int, default=8, help="clips of a batch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: quartiles need 2 or more")
    torch.set_num_threads(options.threads)
    noise = np.random.default_rng(0).integers(0, 256, (options.clips, options.frames, 28, 28, 3), dtype=np.uint8)
    side = (options.size, options.size)
    frames = [np.asarray(Image.fromarray(frame).resize(side)) for clip in noise for frame in clip]
    clips = torch.from_numpy(np.stack(frames)).unflatten(0, noise.shape[:2])
    for device in [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available():
        threads = f"{options.threads} threads, " if device.type == "cpu" else ""
        print(f"\ntorch {torch.__version__}, {device.type}, {threads}{options.frames} x {options.size}\n")
        print("| work | ms | " + " | ".join(list(recipe(clips))[1:]) + " |\n|---|---|---|---|---|")
        there = clips.to(device)
        show(f"RandAugment {RECIPE}", measure(recipe(there), options.rounds, device), options.clips)
        print("\n| work | ms | Pillow | torchvision |\n|---|---|---|---|")
        for name, works in operations(there).items():
            batched = options.clips if name in ("mixup", "CutMix", "erasing") else 1
            show(name, measure(works, options.rounds, device), batched)


if __name__ == "__main__":
    main()
