"""The demo set must not be solvable without time: what a frame shows is distributed alike in both classes of a pair."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from tubelet.datasets import DataError, DemoConfig, make_demo
from tubelet.datasets.demo import PAIRS, draw_video


@pytest.mark.parametrize("scene", PAIRS)
def test_both_directions_start_alike_and_part(scene: str) -> None:
    forwards = draw_video(scene, False, np.random.default_rng(3)).astype(int)
    backwards = draw_video(scene, True, np.random.default_rng(3)).astype(int)
    assert forwards.shape == backwards.shape
    assert abs(forwards[0] - backwards[0]).max() <= 6  # the same start but for the grain
    assert abs(forwards - backwards).max() > 50  # and then apart


@pytest.mark.parametrize("scene", PAIRS)
@pytest.mark.parametrize("which", [0, -1])
def test_neither_the_first_nor_the_last_frame_tells_the_class(scene: str, which: int) -> None:
    """Mean picture of a frame over many videos: within sampling noise the same for both directions."""
    means = []
    for backwards in (False, True):
        frames = []
        for seed in range(150):
            frame = draw_video(scene, backwards, np.random.default_rng([seed, backwards]))[which].mean(-1)
            frames.append(frame[np.ix_(*(np.arange(8) * side // 8 for side in frame.shape))])
        means.append(np.stack(frames))
    spread = np.sqrt(means[0].var(0) / 150 + means[1].var(0) / 150)
    deviation = (means[0].mean(0) - means[1].mean(0)) / spread
    assert abs(deviation).max() < 4.5


def test_the_set_is_real_files_in_several_codecs(videos: Path) -> None:
    assert {path.name for path in videos.iterdir()} == {"left", "right", "clockwise", "anticlockwise"}
    assert {path.suffix for path in videos.rglob("*.*")} == {".mp4", ".webm", ".avi"}


def test_a_folder_in_use_is_refused(videos: Path) -> None:
    with pytest.raises(DataError, match="not an empty folder"):
        make_demo(DemoConfig(out=videos, videos=4))
    with pytest.raises(DataError, match="--pairs 9"):
        make_demo(DemoConfig(out=videos / "new", pairs=9))


@pytest.mark.timeout(60)
def test_where_the_signal_to_end_is_ignored_it_ends_all_the_same(tmp_path: Path) -> None:
    """Processes inherit what their parent does with a signal, and a pool that ends them with it would wait for ever."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        make_demo(DemoConfig(out=tmp_path / "videos", videos=2, workers=2, pairs=1))
    finally:
        signal.signal(signal.SIGTERM, before)
