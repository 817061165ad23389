"""Sliding clips in frames and seconds, and the stream of frames that they are cut from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.video import Windows, available_backends, clip_views, open_video, segment_views

BACKENDS = [backend for backend, version in available_backends().items() if version]
BOX, SIZE = (0, 16, 64, 64), 64
# Constant rates, and the gaps of a clock that is not.
gaps = st.lists(st.sampled_from([0.02, 0.033, 0.04, 0.1, 1.0]), min_size=1, max_size=80)
lengths, counts = st.integers(1, 120), st.integers(1, 12)


@given(gaps, counts, lengths, counts)
def test_a_model_s_own_clips_are_spread_as_test_views_are(gap, frames, stride, count):
    times = np.cumsum(gap)
    clips = Windows(frames, length=frames * stride, count=count).clips(times)
    assert (clips == clip_views(len(times), frames, stride, count)).all()
    assert (Windows(frames, count=count).clips(times) == segment_views(len(times), frames, count)).all()


@given(gaps, counts, lengths, lengths)
def test_clips_slide_in_frames_over_the_whole_video(gap, frames, length, every):
    total = len(gap)
    clips = Windows(frames, length=length, every=every).clips(np.cumsum(gap))
    assert (clips[:, 0] == every * np.arange(len(clips))).all()
    span = clips[0, -1] + 1
    assert span <= length
    if total > length:  # no clip is left out that would have fitted, and none repeats a last frame
        assert clips[-1, 0] + every + span > total
        assert ((clips - clips[:, :1]) == clips[0]).all()


@given(gaps, counts, st.floats(0.05, 5), st.floats(0.05, 5))
def test_clips_slide_in_seconds_whatever_the_rate(gap, frames, seconds, every):
    times = np.cumsum(gap)
    clips = Windows(frames, seconds=seconds, every_seconds=every).clips(times)
    assert clips.shape[1] == frames
    assert clips.min() >= 0
    assert clips.max() < len(times)
    assert (np.diff(clips, axis=1) >= 0).all()
    assert (np.diff(clips[:, 0]) > 0).all()
    covered = times[clips] - times[clips[:, :1]]
    assert (covered <= seconds * np.arange(frames) / frames + 1e-3).all()
    # Each frame is the one on the screen at its moment: the next comes later.
    following = np.append(times[1:], np.inf)[clips] - times[clips[:, :1]]
    assert (following >= seconds * np.arange(frames) / frames - 1e-3).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264.mkv", "vp9.webm", "turned.mp4", "vfr.mkv", "bframes.avi", "opengop.ts"]
)
def test_a_stream_gives_what_crops_give(videos, name, backend, monkeypatch):
    monkeypatch.setattr("tubelet.video.backend_pyav._PIECE", 3000)  # several pieces of a small file
    with open_video(videos[name], backend=backend) as video:
        box = BOX if video.info.height == 64 else (16, 0, 64, 64)
        for wanted in (np.arange(video.info.frames), np.array([3, 4, 50, 51, 97])):
            expected = video.crops(wanted, [box], SIZE)[0].numpy()
            frames = list(video.stream(wanted, box, SIZE))
            assert (np.stack(frames) == expected).all()


def test_a_stream_is_decoded_once_however_clips_overlap(videos, monkeypatch):
    """What a decoder is sent, counted: each packet once, and one at a time before a frame comes out."""
    from tubelet.video.backend_pyav import PyAVReader

    sent = []
    taken_out = PyAVReader._taken_out

    def counted(self, key, last, wanted):
        for packet in taken_out(self, key, last, wanted):
            sent.append(packet)
            yield packet

    monkeypatch.setattr(PyAVReader, "_taken_out", counted)
    with open_video(videos["h264.mp4"]) as video:
        stream = video.stream(np.arange(video.info.frames), BOX, SIZE)
        next(stream)
        assert len(sent) < 20  # it does not decode ahead of what is asked for
        assert len(list(stream)) == video.info.frames - 1
        assert len(sent) == video.info.frames + 1  # and a flush
