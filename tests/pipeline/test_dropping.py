"""Frames dropped from clips."""

from __future__ import annotations

import numpy as np
import torch

from tubelet.pipeline.inputs.clips import drop_frames


def test_a_dropped_frame_is_the_last_one_kept() -> None:
    clips = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(4, 3, 8, 2, 2)
    assert drop_frames(clips, 0.0, np.random.default_rng(0)) is clips
    assert (drop_frames(clips, 1.0, np.random.default_rng(0)) == 0).all()
    some = drop_frames(clips, 0.5, np.random.default_rng(0))
    assert torch.equal(some, drop_frames(clips, 0.5, np.random.default_rng(0)))
    times = some[:, 0, :, 0, 0]
    steps = torch.arange(8.0)
    assert ((times == steps) | (times == times.roll(1, 1))).all()
    assert 0 < (times != steps).sum() < times.numel()
