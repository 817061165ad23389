"""Each operation is Pillow's, all frames of a clip are changed alike, and the generator decides everything."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms.v2 import functional as v2

from tubelet.video import Augmentation, ColorJitter, Erasing, RandAugment, augment

FILL = (10, 200, 30)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
EVERYTHING = Augmentation(RandAugment(m=7, n=4, mstd=0.5), ColorJitter(0.4, 0.4, 0.4, 0.1), gray=0.3, fill=FILL)
PICTURE = Image.Image


def clip_of(frames: int, height: int = 40, width: int = 52, seed: int = 0) -> torch.Tensor:
    """Smooth noise, uint8 (T, H, W, 3), that leaves room for more contrast."""
    rng = np.random.default_rng(seed)
    small = rng.integers(40, 210, (frames, 9, 11, 3), dtype=np.uint8)
    return torch.from_numpy(np.stack([np.asarray(Image.fromarray(f).resize((width, height), 3)) for f in small]))


def by_pillow(clip: torch.Tensor, change: Callable[[PICTURE], PICTURE]) -> torch.Tensor:
    frames = [np.asarray(change(Image.fromarray(frame.numpy())).convert("RGB")) for frame in clip]
    return torch.from_numpy(np.stack(frames))


def affine(*matrix: float) -> Callable[[PICTURE], PICTURE]:
    return lambda frame: frame.transform(frame.size, Image.AFFINE, matrix, Image.BILINEAR, fillcolor=FILL)


EXACT = {
    "autocontrast": (augment.autocontrast, ImageOps.autocontrast),
    "equalize": (augment.equalize, ImageOps.equalize),
    "grayscale": (augment.grayscale, lambda frame: frame.convert("L")),
    **{
        f"{name} {factor}": (
            lambda clip, ours=ours, factor=factor: ours(clip, factor),
            lambda frame, theirs=theirs, factor=factor: theirs(frame).enhance(factor),
        )
        for name, ours, theirs in (
            ("brightness", augment.adjust_brightness, ImageEnhance.Brightness),
            ("contrast", augment.adjust_contrast, ImageEnhance.Contrast),
            ("saturation", augment.adjust_saturation, ImageEnhance.Color),
            ("sharpness", augment.adjust_sharpness, ImageEnhance.Sharpness),
        )
        for factor in (0.1, 0.99, 1.9)
    },
    **{
        f"solarize {t}": (lambda clip, t=t: augment.solarize(clip, t), lambda frame, t=t: ImageOps.solarize(frame, t))
        for t in (0, 1, 77, 255, 256)
    },
    **{
        f"posterize {b}": (
            lambda clip, b=b: augment.posterize(clip, b),
            lambda frame, b=b: ImageOps.posterize(frame, b),
        )
        for b in (1, 2, 4)
    },
    "posterize 0": (lambda clip: augment.posterize(clip, 0), lambda frame: Image.new("RGB", frame.size)),
    "solarize_add": (
        lambda clip: augment.solarize_add(clip, 110),
        lambda frame: frame.point([i + 110 if i < 128 else i for i in range(256)] * 3),
    ),
}
GEOMETRIC = {
    "rotate": (lambda clip, f: augment.rotate(clip, 21, f), lambda frame: frame.rotate(21, Image.BILINEAR)),
    "rotate back": (lambda clip, f: augment.rotate(clip, -30, f), lambda frame: frame.rotate(-30, Image.BILINEAR)),
    "shear_x": (lambda clip, f: augment.shear_x(clip, -0.2, f), affine(1, -0.2, 0, 0, 1, 0)),
    "shear_y": (lambda clip, f: augment.shear_y(clip, 0.3, f), affine(1, 0, 0, 0.3, 1, 0)),
    "translate": (
        lambda clip, f: augment.warp(clip, ((1, 0, 7.3), (0, 1, -3.6)), f),
        affine(1, 0, 7.3, 0, 1, -3.6),
    ),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", EXACT)
def test_operations_are_pillows(name: str, device: str) -> None:
    ours, theirs = EXACT[name]
    clip = clip_of(3)
    planar = clip.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)  # the same in another memory order
    expected = by_pillow(clip, theirs)
    for given_clip in (clip, planar):
        got = ours(given_clip.to(device)).cpu()
        assert got.dtype == torch.uint8
        # Pillow's autocontrast takes some values that are whole for just less, and cuts them to the one below.
        assert (got.int() - expected.int()).abs().max() <= (0 if device == "cpu" and name != "autocontrast" else 1)
    assert torch.equal(clip, clip_of(3)), "what came in has changed"


def test_a_flat_frame_survives() -> None:
    flat = torch.full((2, 8, 8, 3), 90, dtype=torch.uint8)
    for name in ("autocontrast", "equalize", "contrast 1.9", "saturation 0.1"):
        assert torch.equal(EXACT[name][0](flat), flat)
    thin = clip_of(1, 2, 20)
    assert torch.equal(augment.adjust_sharpness(thin, 1.9), thin)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometry_is_pillows_inside_and_the_fill_outside(name: str, device: str) -> None:
    ours, theirs = GEOMETRIC[name]
    clip = clip_of(2)
    got, other = (ours(clip.to(device), fill).cpu() for fill in (FILL, (250, 20, 240)))
    inside = (got == other).all(-1)
    outside = (got == torch.tensor(FILL)).all(-1) & (other == torch.tensor((250, 20, 240))).all(-1)
    assert 0.5 < inside.float().mean() < 0.95
    assert (inside | outside).float().mean() > 0.93, "only a seam of a pixel is a blend of both"
    expected = by_pillow(clip, theirs)
    assert (got[inside].int() - expected[inside].int()).abs().max() <= 1


def test_hue_is_torchvisions() -> None:
    clip = clip_of(2)
    expected = v2.adjust_hue(clip.permute(0, 3, 1, 2), 0.1).permute(0, 2, 3, 1)
    assert torch.equal(augment.adjust_hue(clip, 0.1), expected)


def test_every_operation_of_rand_augment_is_drawn_and_gets_stronger_with_its_level() -> None:
    clip = clip_of(1)

    def distance(index: int, level: float) -> float:
        return (augment._OPERATIONS[index](clip, level, FILL).float() - clip.float()).abs().mean().item()

    distances = [(distance(index, 0.2), distance(index, 0.9)) for index in range(15)]
    assert all(weak <= strong for weak, strong in distances)
    assert all(strong > 1 for _, strong in distances)
    assert sum(weak < strong for weak, strong in distances) == 12, "but for autocontrast, equalize and inversion"
    policy = RandAugment(m=9, n=1, p=1)
    results = {policy(clip, FILL, np.random.default_rng(seed)).contiguous().numpy().tobytes() for seed in range(300)}
    assert len(results) == 24, "3 have no magnitude, 3 have no sign, 9 have either"


@pytest.mark.parametrize("device", DEVICES)
def test_a_still_clip_stays_still(device: str) -> None:
    """Every frame of a clip is changed in the same way: also those that show something else."""
    still = clip_of(1).expand(5, -1, -1, -1).repeat(12, 1, 1, 1, 1).to(device)
    out = EVERYTHING(still, [False, True] * 6, np.random.default_rng(0))
    assert (out == out[:, :1]).all()
    assert len({clip.cpu().numpy().tobytes() for clip in out}) == 12, "each clip in a way of its own"
    # The first frame comes out the same whatever the others show.
    moving = still.clone()
    moving[:, 1:] = clip_of(4, seed=1).to(device)
    assert torch.equal(EVERYTHING(moving, [False, True] * 6, np.random.default_rng(0))[:, 0], out[:, 0])


def test_the_generator_decides_everything() -> None:
    clips = torch.stack([clip_of(3, seed=i) for i in range(4)])
    before = clips.clone()
    torch.manual_seed(1)
    first = EVERYTHING(clips, [False] * 4, np.random.default_rng(5))
    torch.manual_seed(2)
    assert torch.equal(first, EVERYTHING(clips, [False] * 4, np.random.default_rng(5)))
    assert not torch.equal(first, EVERYTHING(clips, [False] * 4, np.random.default_rng(6)))
    assert torch.equal(clips, before)
    assert (first.shape, first.dtype, first.is_contiguous()) == (clips.shape, torch.uint8, True)


def test_nothing_to_do_is_nothing_done() -> None:
    clips = clip_of(4).unflatten(0, (2, 2))
    rng = np.random.default_rng(0)
    assert Augmentation()(clips, [False, False], rng) is clips
    assert torch.equal(Augmentation()(clips, [True, False], rng), torch.stack([clips[0].flip(2), clips[1]]))
    floats = clips.permute(0, 4, 1, 2, 3).float()
    assert torch.equal(Erasing()(floats.clone(), rng), floats)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state, "no number was drawn"


def test_colours_jitter_within_their_range() -> None:
    grey = torch.full((1, 1, 4, 4, 3), 100, dtype=torch.uint8)
    jitter = Augmentation(color_jitter=ColorJitter(brightness=0.4))
    seen = [jitter(grey, [False], np.random.default_rng(seed)).float().mean().item() for seed in range(200)]
    assert 59 <= min(seen) < 65
    assert 135 < max(seen) <= 140
    gray = Augmentation(gray=0.25)
    colourful = clip_of(1)[None]
    share = np.mean(
        [gray(colourful, [False], np.random.default_rng(s))[..., :2].float().diff().eq(0).all() for s in range(400)]
    )
    assert share == pytest.approx(0.25, abs=0.07)


def test_rand_augment_applies_each_operation_with_its_probability() -> None:
    black = torch.zeros(1, 1, 4, 4, 3, dtype=torch.uint8)

    def changed(p: float) -> float:
        policy = Augmentation(RandAugment(m=9, n=1, p=p), fill=(0, 0, 0))
        return np.mean([policy(black, [False], np.random.default_rng(s)).any() for s in range(600)])

    assert changed(0.0) == 0
    # invert, solarize with a threshold above 0 leaves black alone, solarize_add: 2 of 15 change black
    assert changed(1.0) == pytest.approx(2 / 15, abs=0.04)
    assert changed(0.5) == pytest.approx(1 / 15, abs=0.03)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m7-n4-mstd0.5-inc1", RandAugment(7, 4, 0.5, 0.5)),
        ("rand-m9-inc1", RandAugment(9, 2, 0, 0.5)),
        ("inc1-p1-n1", RandAugment(9, 1, 0, 1)),
    ],
)
def test_rand_augment_is_written_as_in_the_papers(text: str, expected: RandAugment) -> None:
    assert RandAugment.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "m9", "m7-n4-mstd0.5", "m7-inc0", "m11-inc1", "m7-n1.5-inc1", "p2-inc1", "m7-m8-inc1", "w0-inc1", "mstd-inc1"],
)
def test_rand_augment_written_wrongly(text: str) -> None:
    with pytest.raises(ValueError, match="RandAugment"):
        RandAugment.parse(text)


@given(st.integers(8, 300), st.integers(8, 300), st.integers(1, 4), st.integers(0, 10**6))
def test_boxes_to_erase_lie_inside(height: int, width: int, count: int, seed: int) -> None:
    boxes = Erasing(1.0, count=count).boxes(height, width, np.random.default_rng(seed))
    assert len(boxes) == count
    for top, left, tall, wide in boxes:
        assert 0 <= top < top + tall <= height
        assert 0 <= left < left + wide <= width


def test_boxes_to_erase_follow_area_and_probability() -> None:
    rng = np.random.default_rng(0)
    drawn = [Erasing(0.25, count=2, area=(0.1, 0.3)).boxes(100, 100, rng) for _ in range(2000)]
    assert np.mean([bool(boxes) for boxes in drawn]) == pytest.approx(0.25, abs=0.03)
    areas = np.array([tall * wide / 1e4 for boxes in drawn for _, _, tall, wide in boxes])
    assert areas.min() >= 0.045
    assert areas.max() <= 0.155
    assert areas.mean() == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mode", ["pixel", "const"])
def test_the_same_box_is_erased_in_all_frames(mode: str, dtype: torch.dtype, device: str) -> None:
    clips = torch.full((6, 3, 4, 40, 40), 7.0, dtype=dtype, device=device)
    out = Erasing(1.0, mode, area=(0.1, 0.3))(clips.clone(), np.random.default_rng(1))
    erased = out != clips
    assert (erased == erased[:, :1, :1]).all()
    shares = erased[:, 0, 0].float().mean((1, 2))
    assert (shares > 0.09).all()
    assert (shares < 0.31).all()
    found = out[erased].float()
    if mode == "const":
        assert not found.any()
    else:
        assert found.mean().abs() < 0.05
        assert abs(found.std() - 1) < 0.05
        assert not torch.equal(out[:, :, 0], out[:, :, 1]), "noise is new in each frame"
    assert torch.equal(out, Erasing(1.0, mode, area=(0.1, 0.3))(clips.clone(), np.random.default_rng(1)))
