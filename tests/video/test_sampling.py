"""The indices of clips: in range, ordered, of the right stride, and spread as the papers say."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.video import clip_views, frames_between, random_clip, segment_clip, segment_views

totals, counts, strides, seeds = st.integers(1, 500), st.integers(1, 40), st.integers(1, 16), st.integers(0, 2**32 - 1)


def in_order_and_range(indices: np.ndarray, total: int) -> bool:
    ascending = (np.diff(indices, axis=-1) >= 0).all()
    return indices.dtype == np.int64 and bool(ascending) and indices.min() >= 0 and indices.max() < total


@given(totals, counts, strides, seeds)
def test_random_clip(total, frames, stride, seed):
    clip = random_clip(total, frames, stride, np.random.default_rng(seed))
    assert clip.shape == (frames,)
    assert in_order_and_range(clip, total)
    if total >= (frames - 1) * stride + 1:
        assert (np.diff(clip) == stride).all()
    else:
        assert (clip == np.minimum(stride * np.arange(frames), total - 1)).all()


@given(totals, counts, strides, st.integers(1, 12))
def test_clip_views(total, frames, stride, views):
    clips = clip_views(total, frames, stride, views)
    assert clips.shape == (views, frames)
    assert in_order_and_range(clips, total)
    latest = max(total - (frames - 1) * stride - 1, 0)
    if views == 1:
        assert clips[0, 0] == latest // 2
    else:
        assert (clips[0, 0], clips[-1, 0]) == (0, latest)
        assert np.ptp(np.diff(clips[:, 0])) <= 1


@given(totals, counts, seeds)
def test_segment_clip(total, frames, seed):
    for rng in (None, np.random.default_rng(seed)):
        clip = segment_clip(total, frames, rng)
        assert clip.shape == (frames,)
        assert in_order_and_range(clip, total)
        if total >= frames:
            assert (np.diff(clip) > 0).all()
            assert (clip * frames // total <= np.arange(frames)).all()


@given(totals, counts, st.integers(1, 12))
def test_segment_views(total, frames, views):
    clips = segment_views(total, frames, views)
    assert clips.shape == (views, frames)
    assert in_order_and_range(clips, total)
    assert (segment_views(total, frames, 1)[0] == segment_clip(total, frames, None)).all()
    if total >= frames * views:
        assert len(np.unique(clips)) == frames * views


def test_every_start_and_every_frame_of_a_segment_is_drawn():
    rng = np.random.default_rng(0)
    assert {int(random_clip(10, 4, 2, rng)[0]) for _ in range(200)} == {0, 1, 2, 3}
    assert {int(segment_clip(10, 2, rng)[1]) for _ in range(200)} == {5, 6, 7, 8, 9}


@pytest.mark.parametrize("name", ["total", "frames", "stride", "views"])
def test_numbers_below_one(name):
    numbers = {"total": 9, "frames": 4, "stride": 2, "views": 3, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, not 0"):
        clip_views(**numbers)
    if name == "total":
        for sample in (lambda: random_clip(0, 4, 2, np.random.default_rng(0)), lambda: segment_clip(0, 4, None)):
            with pytest.raises(ValueError, match="total must be 1 or more"):
                sample()


@given(st.integers(1, 300), st.sampled_from([10, 24, 25, 30, 30000 / 1001]), st.booleans(), st.data())
def test_frames_between(total, rate, in_milliseconds, data):
    """Parts that meet share no frame and lose none, also where the container rounds its times to milliseconds."""
    times = np.arange(total) / rate
    stored = np.round(times, 3) if in_milliseconds else times
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=5)))
    edges = [0.0, *(cut / rate for cut in cuts), np.inf]
    parts = [frames_between(stored, start, end) for start, end in pairwise(edges)]
    assert parts == list(pairwise([0, *cuts, total]))
