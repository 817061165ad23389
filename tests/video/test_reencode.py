"""Re-encoded videos show the same frames at the same times, upright and small, and say what that has cost."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tubelet.video import VideoError, encode_video, measure_quality, open_video, probe, reencode
from tubelet.video.reencode import Lost, _from_key, _from_start
from tubelet.video.scan import scan_source
from tubelet.video.source import Source

SOURCES = ["h264.mp4", "h264.mkv", "vp9.webm", "mpeg4.avi", "one.mp4", "vfr.mkv", "altref.webm", "vp8.webm"]
SOURCES += ["bframes.avi", "opengop.ts", "opengop.mkv", "hidden.webm"]


def first_frame(path: Path) -> tuple[av.VideoFrame, Fraction | None]:
    """It, and the shape of its pixels. PyAV crashes where a stream is asked after its container was closed."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0)), container.streams.video[0].sample_aspect_ratio


@pytest.mark.parametrize("name", SOURCES)
def test_every_frame_and_when_it_is_shown(tmp_path, videos, read_numbers, name):
    info = reencode(videos[name], tmp_path / "new.mp4")
    with open_video(videos[name]) as old, open_video(tmp_path / "new.mp4") as new:
        assert (info.frames, info.codec, info.height, info.width) == (old.info.frames, "h264", 64, 96)
        assert new.info == info
        assert read_numbers(new.frames(range(info.frames))) == read_numbers(old.frames(range(info.frames)))
        # Two frames at once, as in an AVI of B-frames, are shown a tick apart.
        np.testing.assert_allclose(new.times(), old.times(), atol=2e-3 if name == "bframes.avi" else 1e-6)


@pytest.mark.parametrize("name", SOURCES)
def test_a_part_is_cut_to_the_frame(tmp_path, videos, read_numbers, name):
    frames = probe(videos[name]).frames
    first, after = (50, 73) if frames == 100 else (frames // 2, frames)
    info = reencode(videos[name], tmp_path / "part.mp4", frames=(first, after))
    assert info.frames == after - first
    with open_video(videos[name]) as old, open_video(tmp_path / "part.mp4") as new:
        assert read_numbers(new.frames(range(info.frames))) == read_numbers(old.frames(range(first, after)))
        times = old.times()
        shown = times[first:after] - times[first]
        np.testing.assert_allclose(new.times(), shown, atol=2e-3 if name == "bframes.avi" else 1e-6)


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "vfr.mkv"])
def test_a_part_is_decoded_from_a_keyframe_before_it(videos, name):
    place = Source.of(videos[name], None)
    scan = scan_source(place)
    near, far = (list(way(place, scan, 85, 95)) for way in (_from_key, _from_start))
    assert [frame.pts for frame in near] == [frame.pts for frame in far]
    for one, other in zip(near, far, strict=True):
        assert (one.to_ndarray() == other.to_ndarray()).all()


def test_a_seek_that_finds_other_frames_is_noticed(videos):
    place = Source.of(videos["vfr.mkv"], None)
    scan = scan_source(place)
    scan.times[87] += 0.05
    with pytest.raises(Lost):
        list(_from_key(place, scan, 85, 95))


def test_the_recipe(tmp_path, videos):
    """A keyframe every 32 frames, and of those between three in four that no other frame needs."""
    reencode(videos["h264.mp4"], tmp_path / "new.mp4")
    with av.open(str(tmp_path / "new.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = sorted(packet.pts for packet in packets if packet.is_keyframe)
    assert len(keys) == 4
    assert set(np.diff(keys)) == {32 * packets[0].duration}
    # The reference bits in the header of each packet's last unit, its picture: a length of four bytes comes before.
    spare = 0
    for packet in packets:
        data, at = bytes(packet), 0
        while at < len(data):
            at, header = at + 4 + int.from_bytes(data[at : at + 4], "big"), data[at + 4]
        spare += not header >> 5 & 3
    assert 65 <= spare <= 75


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(120, 200, (64, 106)), (200, 120, (106, 64)), (64, 96, (64, 96)), (40, 48, (40, 48)), (64, 64, (64, 64))],
)
def test_sizes(tmp_path, numbered, height, width, expected):
    encode_video(tmp_path / "old.mp4", numbered(3, height, width), 30)
    info = reencode(tmp_path / "old.mp4", tmp_path / "new.mp4", short_side=64)
    assert (info.height, info.width) == expected


def test_odd_sides_lose_a_row_and_a_column(tmp_path, numbered):
    pixels = numbered(4, 67, 99)
    with av.open(str(tmp_path / "odd.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = 67, 99, "yuv444p"
        for image in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    info = reencode(tmp_path / "odd.mp4", tmp_path / "new.mp4")
    assert (info.height, info.width) == (66, 98)
    with open_video(tmp_path / "odd.mp4") as old, open_video(tmp_path / "new.mp4") as new:
        # The black and white blocks; noise in colour is not what 4:2:0 keeps.
        difference = new.frames(range(4))[:, :32, :64].float() - old.frames(range(4))[:, :32, :64].float()
    assert difference.abs().mean() < 3


def test_turned_videos_become_upright(tmp_path, videos, numbered):
    info = reencode(videos["turned.mp4"], tmp_path / "new.mp4")
    assert (info.height, info.width, info.rotation) == (96, 64, 0)
    with open_video(videos["turned.mp4"]) as old, open_video(tmp_path / "new.mp4") as new:
        assert (new.frames([5, 99]).float() - old.frames([5, 99]).float()).abs().mean() < 8


def test_colours_and_shape_of_pixels_stay(tmp_path):
    """Full range, matrix and pixels that are not square; white stays white and black black."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, 48:] = 255
    with av.open(str(tmp_path / "old.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.sample_aspect_ratio = Fraction(4, 3)
        stream.codec_context.color_range, stream.codec_context.colorspace = 2, 1
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="JPEG")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    reencode(tmp_path / "old.mp4", tmp_path / "new.mp4", short_side=32)
    (before, old_shape), (after, new_shape) = first_frame(tmp_path / "old.mp4"), first_frame(tmp_path / "new.mp4")
    assert old_shape == new_shape == Fraction(4, 3)
    assert (after.color_range, after.colorspace) == (before.color_range, before.colorspace) == (2, 1)
    luma = np.asarray(after.planes[0]).reshape(32, -1)[:, :48]
    assert luma[:, :12].max() <= 3
    assert luma[:, 36:].min() >= 252


def test_ten_bits_become_eight(tmp_path, numbered, read_numbers):
    with av.open(str(tmp_path / "old.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p10le"
        for image in numbered(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    reencode(tmp_path / "old.mkv", tmp_path / "new.mp4")
    assert first_frame(tmp_path / "new.mp4")[0].format.name == "yuv420p"
    with open_video(tmp_path / "new.mp4") as new:
        assert read_numbers(new.frames(range(6))) == list(range(6))


def test_the_same_bytes_each_time(tmp_path, videos):
    for name in ("a.mp4", "b.mp4"):
        reencode(videos["h264.mp4"], tmp_path / name, frames=(10, 40))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_same_bytes_on_another_processor(tmp_path, videos, monkeypatch):
    reencode(videos["h264.mp4"], tmp_path / "here.mp4", frames=(10, 40))
    recipe = sys.modules[reencode.__module__]._RECIPE
    monkeypatch.setitem(recipe, "x264-params", recipe["x264-params"] + ":asm=0")  # without any vector instructions
    reencode(videos["h264.mp4"], tmp_path / "there.mp4", frames=(10, 40))
    assert (tmp_path / "here.mp4").read_bytes() == (tmp_path / "there.mp4").read_bytes()


def test_quality(tmp_path, videos):
    reencode(videos["h264.mp4"], tmp_path / "new.mp4", frames=(20, 60), short_side=48)
    good = measure_quality(videos["h264.mp4"], tmp_path / "new.mp4", (20, 60), 48, seed=0)
    shifted = measure_quality(videos["h264.mp4"], tmp_path / "new.mp4", (22, 62), 48, seed=0)
    assert 28 < good.psnr < 60
    assert 0.9 < good.ssim < 1
    assert shifted.psnr < good.psnr - 10
    assert shifted.ssim < 0.7
    assert good.source_ms > 0
    assert good.encoded_ms > 0


def test_what_is_damaged_or_not_there_is_named(tmp_path, videos):
    data = bytearray(videos["h264.mkv"].read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = b"\xff" * 200
    (tmp_path / "bad.mkv").write_bytes(data)
    with pytest.raises(VideoError, match=r"bad\.mkv: .*(damaged|decode|cut short)"):
        reencode(tmp_path / "bad.mkv", tmp_path / "new.mp4")
    with pytest.raises(ValueError, match=r"no frames 90 to 101: .* has 100"):
        reencode(videos["h264.mp4"], tmp_path / "new.mp4", frames=(90, 101))
    with pytest.raises(ValueError, match="must be even"):
        reencode(videos["h264.mp4"], tmp_path / "new.mp4", short_side=33)
    with pytest.raises(OSError, match="nowhere"):
        reencode(videos["h264.mp4"], tmp_path / "nowhere" / "new.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mkv"]
