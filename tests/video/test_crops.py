"""Frames cropped before they are scaled and converted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tubelet.video import VideoError, available_backends, crop_resize, encode_video, open_video

DECODERS = [backend for backend, version in available_backends().items() if version]


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colours that change slowly, so that two ways of scaling agree and a wrong place does not."""
    down, across, time = np.meshgrid(np.arange(96), np.arange(130), np.arange(12), indexing="ij")
    colours = [2 * down + 3 * time, across + 5 * time, 255 - down - across // 2]
    frames = np.clip(np.stack(colours, -1), 0, 255).astype(np.uint8).transpose(2, 0, 1, 3)
    path = tmp_path_factory.mktemp("smooth") / "smooth.mp4"
    encode_video(path, frames, 10, options={"crf": "4"})
    return path


boxes = st.tuples(st.integers(0, 50), st.integers(0, 60), st.integers(4, 46), st.integers(4, 70))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(box=boxes, size=st.integers(16, 80))  # below, colour has too few samples to follow the picture
def test_a_crop_shows_what_the_frame_shows_there(smooth: Path, box: tuple, size: int) -> None:
    with open_video(smooth) as video:
        crop = video.crops([2, 9], [box], size)[0]
        expected = crop_resize(video.frames([2, 9]), box, size)
    assert (crop.int() - expected.int()).abs().float().mean() < 3


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_crops_of_a_turned_video_are_upright(smooth: Path, turns: int, turned, tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    path.write_bytes(turned(smooth.read_bytes(), turns))
    box = (10, 30, 40, 50) if turns == 2 else (30, 10, 50, 40)
    with open_video(path) as video:
        assert video.info.rotation == 90 * turns
        crop, expected = video.crops([4], [box], 32)[0], crop_resize(video.frames([4]), box, 32)
    assert (crop.int() - expected.int()).abs().float().mean() < 3


def test_a_whole_frame_at_its_own_size_is_that_frame(videos: dict[str, Path]) -> None:
    with open_video(videos["h264.mp4"]) as video:
        square = video.crops([7], [(0, 0, 64, 64)], 64)[0]
        assert square.equal(video.frames([7])[:, :, :64])


@pytest.mark.parametrize("backend", DECODERS)
def test_boxes_times_frames_from_one_decode(smooth: Path, backend: str) -> None:
    boxes = [(0, 0, 96, 96), (0, 17, 96, 96), (8, 2, 30, 80)]
    with open_video(smooth, backend=backend) as video:
        crops = video.crops([5, 1, 5], boxes, 24)
        assert crops.shape == (3, 3, 24, 24, 3)
        assert crops[:, 0].equal(crops[:, 2])
        for box, crop in zip(boxes, crops, strict=True):
            expected = crop_resize(video.frames([5, 1, 5]), box, 24)
            assert (crop.int() - expected.int()).abs().float().mean() < 3


def test_crops_are_written_where_the_caller_wants_them(smooth: Path) -> None:
    batch = torch.zeros(4, 2, 16, 16, 3, dtype=torch.uint8)
    with open_video(smooth) as video:
        video.crops([0, 3], [(0, 0, 90, 90)], 16, out=batch[2:3])
        assert batch[2:3].equal(video.crops([0, 3], [(0, 0, 90, 90)], 16))
        assert not batch[[0, 1, 3]].any()
        with pytest.raises(ValueError, match="is wanted"):
            video.crops([0], [(0, 0, 90, 90)], 16, out=batch[2:3])


@pytest.mark.parametrize("box", [(0, 0, 97, 10), (0, 0, 0, 10), (-1, 0, 10, 10), (90, 0, 10, 10), (0, 120, 10, 11)])
def test_a_box_outside_of_the_frame_is_an_error(smooth: Path, box: tuple) -> None:
    with open_video(smooth) as video, pytest.raises(ValueError, match="not inside frames of 96 x 130"):
        video.crops([0], [box], 16)


def test_frames_of_other_formats_and_sizes_are_cropped_too(videos: dict[str, Path]) -> None:
    with open_video(videos["ten_bit.mp4"]) as video:
        box = (0, 8, 60, 60)
        assert video.crops([3], [box], 32)[0].equal(crop_resize(video.frames([3]), box, 32))


def test_an_index_past_the_end_is_an_error_that_names_it(smooth: Path) -> None:
    with open_video(smooth) as video, pytest.raises(VideoError, match="no frame 12"):
        video.crops([0, 12], [(0, 0, 9, 9)], 16)
