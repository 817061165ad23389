"""Frame accuracy of every decoder, against the numbers that the frames bear and a full sequential decode."""

import multiprocessing
import time
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tubelet.video import BACKENDS, VideoError, available_backends, encode_video, open_video, probe, scan_video

WHOLE = ["h264.mp4", "h264.mkv", "vp9.webm", "mpeg4.avi", "one.mp4", "turned.mp4", "vfr.mkv", "altref.webm"]
WHOLE += ["vp8.webm", "hidden.webm", "bframes.avi", "opengop.ts", "opengop.mkv"]
DECODERS = [backend for backend, version in available_backends().items() if version]


def sequential(path) -> np.ndarray:
    """The reference: every frame in output order."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"
        return np.stack([frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(stream)])


@pytest.mark.parametrize("backend", DECODERS)
@pytest.mark.parametrize("name", WHOLE)
def test_frames_are_those_of_a_sequential_decode(videos, read_numbers, name, backend):
    reference = sequential(videos[name])
    if name == "turned.mp4":
        reference = np.rot90(reference, -1, axes=(1, 2))
    with open_video(videos[name], backend=backend) as video:
        total = video.info.frames
        assert total == len(reference)
        tolerance = 0 if video.backend == "pyav" else 2
        rng = np.random.default_rng(0)
        for indices in [range(total), rng.integers(0, total, 9), [total - 1], [total - 1, 0, total // 2, total - 1]]:
            clip = video.frames(indices)
            assert clip.dtype == torch.uint8
            assert clip.shape == (len(indices), video.info.height, video.info.width, 3)
            difference = np.abs(clip.numpy().astype(int) - reference[np.asarray(indices)])
            assert difference.max() <= tolerance, (name, backend, video.backend)
            if name != "turned.mp4":
                shown = [number for number in range(100) if (name, number) != ("hidden.webm", 40)]
                assert read_numbers(clip) == [shown[index] for index in indices]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["h264.mp4", "opengop.mkv", "vfr.mkv", "vp9.webm"]), st.lists(st.integers(0, 99), max_size=12))
def test_any_indices_in_any_order(videos, read_numbers, name, indices):
    with open_video(videos[name]) as video:
        assert read_numbers(video.frames(indices)) == indices


def test_one_open_reader_serves_many_clips_forth_and_back(videos, read_numbers):
    with open_video(videos["h264.mp4"]) as video:
        for indices in ([90, 95], [3], [50, 2], [99], [0], [41, 39]):
            assert read_numbers(video.frames(indices)) == indices


def test_few_packets_are_decoded(videos, monkeypatch):
    from tubelet.video import backend_pyav

    monkeypatch.setattr(backend_pyav, "whole_frames", lambda *_: pytest.fail("decoded from the start"))
    for name in ("h264.mp4", "h264.mkv", "vp9.webm", "mpeg4.avi", "opengop.mkv", "altref.webm"):
        with open_video(videos[name]) as video:
            video.frames([99, 45, 44, 13, 11])


def test_pictures_that_nothing_is_predicted_from_are_withheld(videos):
    for name, withheld in [("h264.mp4", True), ("h264.mkv", True), ("vp9.webm", False), ("mpeg4.avi", False)]:
        spare = scan_video(videos[name]).spare
        assert spare.any() == withheld
        assert not spare.all()


@pytest.mark.parametrize("backend", DECODERS)
def test_bytes_are_read_as_files_are(videos, backend):
    path = videos["h264.mp4"]
    with open_video(path, backend=backend) as file, open_video(path.read_bytes(), backend=backend) as memory:
        assert torch.equal(file.frames([0, 50, 99]), memory.frames([0, 50, 99]))
        assert file.info == memory.info


def test_info_and_times(videos):
    info = probe(videos["h264.mp4"])
    assert (info.frames, info.height, info.width, info.codec, info.rotation) == (100, 64, 96, "h264", 0)
    assert info.rate == pytest.approx(30)
    assert info.duration == pytest.approx(100 / 30, abs=0.01)
    assert probe(videos["h264.mp4"], decode=False) == info
    with open_video(videos["vfr.mkv"]) as video:
        expected = np.cumsum(np.resize([10, 40, 90, 20, 300], 100)) / 1000
        assert video.times() == pytest.approx(expected - expected[0], abs=2e-3)
        assert video.info.rate == pytest.approx(100 / (expected[-1] - expected[0]), rel=0.05)


def test_rotation_is_applied(videos):
    info = probe(videos["turned.mp4"])
    assert (info.rotation, info.height, info.width) == (90, 96, 64)


def test_the_best_of_two_streams(tmp_path, numbered):
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as container:
        for size in (64, 128):
            stream = container.add_stream("libx264", rate=30)
            stream.height, stream.width, stream.pix_fmt = size, size, "yuv420p"
            stream.disposition = (Disposition.default if size == 128 else Disposition.comment).value
        for stream in container.streams.video:
            for image in numbered(5, stream.height, stream.width):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    assert probe(path).height == 128


def test_a_frame_of_another_size_is_scaled_to_the_first(tmp_path, numbered):
    path = tmp_path / "grows.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuvj420p"
        for start, height, width in ((0, 64, 96), (10, 128, 192)):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = (
                height,
                width,
                "yuvj420p",
                Fraction(1, 30),
            )
            for number, image in enumerate(numbered(10, height, width), start):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    container.mux(packet)
    with open_video(path) as video:
        assert video.info.frames == 20
        assert video.frames([0, 15]).shape == (2, 64, 96, 3)
        assert video.frames([15])[0, 40:, :, 0].float().mean() == pytest.approx(100, abs=3)


def test_decord_gives_way_where_it_is_wrong(videos):
    if "decord" not in DECODERS:
        pytest.skip("decord is not installed")
    for name in ("bframes.avi", "opengop.ts", "opengop.mkv", "hidden.webm"):
        with open_video(videos[name], backend="decord") as video:
            assert video.backend == "pyav"
            assert video.fallback
    with open_video(videos["h264.mp4"], backend="decord") as video:
        assert (video.backend, video.fallback) == ("decord", None)


def test_a_guest_that_fails_hands_over(videos, read_numbers, monkeypatch):
    if "decord" not in DECODERS:
        pytest.skip("decord is not installed")
    from tubelet.video.backend_decord import DecordReader, Unsuited

    def refuse(self, wanted):
        raise Unsuited("it tripped")

    monkeypatch.setattr(DecordReader, "_batch", refuse)
    with open_video(videos["h264.mp4"], backend="decord") as video:
        assert read_numbers(video.frames([7, 3])) == [7, 3]
        assert (video.backend, video.fallback) == ("pyav", "it tripped")


def test_unknown_and_missing_backends(videos, monkeypatch):
    with pytest.raises(ValueError, match=r"did you mean 'decord'.*pyav, decord, torchcodec"):
        open_video(videos["h264.mp4"], backend="dekord")
    from tubelet.video import opening

    monkeypatch.setitem(opening._PACKAGES, "torchcodec", "no_such_package")
    with pytest.raises(RuntimeError, match=r"pip install tubelet\[torchcodec\]"):
        open_video(videos["h264.mp4"], backend="torchcodec")
    assert available_backends()["torchcodec"] is None
    assert tuple(available_backends()) == BACKENDS


def test_out_of_range_and_closed(videos):
    video = open_video(videos["h264.mp4"], name="clip 7")
    for index in (100, -1):
        with pytest.raises(VideoError, match=f"clip 7: no frame {index}: it has frames 0 to 99"):
            video.frames([0, index])
    assert video.frames([]).shape == (0, 64, 96, 3)
    video.close()
    video.close()
    with pytest.raises(VideoError, match="closed"):
        video.frames([0])


def _first_frame_number(path, backend, answers):
    with open_video(path, backend=backend) as video:
        answers.put(int(video.frames([77])[0].sum()))


@pytest.mark.parametrize("backend", DECODERS)
def test_a_reader_opened_after_a_fork_works(videos, backend):
    with open_video(videos["h264.mp4"], backend=backend) as video:
        expected = int(video.frames([77])[0].sum())
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        worker = context.Process(target=_first_frame_number, args=(videos["h264.mp4"], backend, answers))
        worker.start()
        assert answers.get(timeout=20) == expected
        worker.join(20)
        assert worker.exitcode == 0


def test_opening_is_quick(tmp_path, numbered):
    path = tmp_path / "clip.mp4"
    encode_video(path, numbered(200), 30)
    start = time.process_time()
    for _ in range(5):
        with open_video(path) as video:
            video.frames(range(0, 64, 4))
    assert time.process_time() - start < 2
