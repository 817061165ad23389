"""Crops stay inside, scaling agrees with float, and nothing is copied for a permutation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from tubelet.video import crop_resize, jitter_crop_box, normalize, random_crop_box, spatial_boxes

MEAN, STD = (0.45, 0.4, 0.5), (0.225, 0.25, 0.2)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 10**6))
def test_random_boxes_lie_inside(height, width, seed):
    box = random_crop_box(height, width, (0.08, 1.0), (3 / 4, 4 / 3), np.random.default_rng(seed))
    top, left, box_height, box_width = box
    assert all(type(side) is int for side in box)
    assert 0 <= top <= top + box_height <= height
    assert 0 <= left <= left + box_width <= width
    assert min(box_height, box_width) >= 1


def test_random_boxes_follow_scale_and_ratio():
    rng = np.random.default_rng(0)
    boxes = np.array([random_crop_box(200, 300, (0.25, 0.5), (0.75, 1.5), rng)[2:] for _ in range(500)])
    shares, shapes = boxes.prod(axis=1) / 60000, boxes[:, 1] / boxes[:, 0]
    assert shares.min() == pytest.approx(0.25, abs=0.02)
    assert shares.max() == pytest.approx(0.5, abs=0.02)
    assert 0.73 < shapes.min() < 0.8
    assert 1.4 < shapes.max() < 1.53
    with pytest.raises(ValueError, match="least, greatest"):
        random_crop_box(9, 9, (1.0, 0.5), (1.0, 1.0), rng)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 10**6))
def test_squares_at_a_random_scale_lie_inside(height, width, seed):
    top, left, side, other = jitter_crop_box(height, width, (8 / 7, 10 / 7), np.random.default_rng(seed))
    assert side == other >= 1
    assert 0 <= top <= top + side <= height
    assert 0 <= left <= left + side <= width


def test_squares_follow_the_jitter():
    """256 to 320 pixels of short side for a crop of 224, wherever it fits."""
    rng = np.random.default_rng(0)
    boxes = np.array([jitter_crop_box(256, 340, (256 / 224, 320 / 224), rng) for _ in range(500)])
    assert (boxes[:, 2].min(), boxes[:, 2].max()) == (179, 224)
    assert boxes[:, 0].min() == boxes[:, 1].min() == 0
    assert (boxes[:, 1] + boxes[:, 3]).max() == 340
    with pytest.raises(ValueError, match="1 or more"):
        jitter_crop_box(9, 9, (0.9, 1.5), rng)


def test_crop_resize_is_the_float_result_rounded():
    clip = noise(3, 60, 80, 3)
    out = crop_resize(clip, (5, 7, 40, 50), 32)
    exact = interpolate(clip[:, 5:45, 7:57].permute(0, 3, 1, 2).float(), (32, 32), mode="bilinear", antialias=True)
    assert (out.shape, out.dtype, out.is_contiguous()) == ((3, 32, 32, 3), torch.uint8, True)
    assert (out.float() - exact.permute(0, 2, 3, 1)).abs().max() <= 1.5
    assert torch.equal(crop_resize(clip, (1, 2, 32, 32), 32), clip[:, 1:33, 2:34])
    with pytest.raises(ValueError, match="not inside frames of 60 x 80"):
        crop_resize(clip, (30, 0, 40, 40), 32)


@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48), (48, 48)])
def test_the_squares_of_test_views(height, width):
    clip = noise(2, height, width, 3)
    boxes = spatial_boxes(height, width, 3)
    assert spatial_boxes(height, width, 1) == boxes[1:2]
    first, _, last = (crop_resize(clip, box, 48) for box in boxes)
    assert torch.equal(first, clip[:, :48, :48])
    assert torch.equal(last, clip[:, -48:, -48:])
    with pytest.raises(ValueError, match="not 2"):
        spatial_boxes(height, width, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_normalize(dtype):
    clips = noise(2, 3, 8, 10, 3)
    out = normalize(clips, MEAN, STD, dtype)
    expected = ((clips.double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 4, 1, 2, 3)
    assert (out.shape, out.dtype) == ((2, 3, 3, 8, 10), dtype)
    assert (out.double() - expected).abs().max() < {torch.float32: 1e-5}.get(dtype, 0.01)
    assert out.permute(0, 2, 3, 4, 1).is_contiguous()
