"""Videos that are written read back, the same bytes each time; contact sheets have room for all that they show."""

import numpy as np
import pytest
import torch

from tubelet.video import contact_sheet, encode_video, open_video, probe


@pytest.mark.parametrize(
    ("suffix", "codec", "name"),
    [
        (".mp4", "libx264", "h264"),
        (".mkv", "libx264", "h264"),
        (".webm", "libvpx-vp9", "vp9"),
        (".avi", "mpeg4", "mpeg4"),
    ],
)
def test_what_is_written_reads_back(tmp_path, numbered, read_numbers, suffix, codec, name):
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    encode_video(first, numbered(20), 24, codec)
    encode_video(second, torch.from_numpy(numbered(20)), 24, codec)
    assert first.read_bytes() == second.read_bytes()
    info = probe(first)
    assert (info.frames, info.codec, info.height, info.width) == (20, name, 64, 96)
    assert info.rate == pytest.approx(24, rel=0.01)
    with open_video(first) as video:
        assert read_numbers(video.frames(range(20))) == list(range(20))
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]


def test_options_override_the_defaults(tmp_path, numbered):
    encode_video(tmp_path / "fine.mp4", numbered(20), 24, options={"crf": "5"})
    encode_video(tmp_path / "coarse.mp4", numbered(20), 24, options={"crf": "45"})
    assert (tmp_path / "fine.mp4").stat().st_size > (tmp_path / "coarse.mp4").stat().st_size


@pytest.mark.parametrize(
    ("shape", "file", "codec", "message"),
    [
        ((4, 63, 64, 3), "a.mp4", "libx264", "even sides, not 63 x 64"),
        ((0, 64, 64, 3), "a.mp4", "libx264", "T of 1 or more"),
        ((4, 64, 64), "a.mp4", "libx264", "must be uint8"),
        ((4, 64, 64, 3), "a.gif", "libx264", "suffix must be one of"),
        ((4, 64, 64, 3), "a.mp4", "prores", "there are libx264, libvpx-vp9, mpeg4"),
    ],
)
def test_what_cannot_be_written(tmp_path, shape, file, codec, message):
    with pytest.raises(ValueError, match=message):
        encode_video(tmp_path / file, np.zeros(shape, np.uint8), 24, codec)
    assert not list(tmp_path.iterdir())


def test_a_failed_encoding_leaves_nothing(tmp_path):
    with pytest.raises(Exception, match=r".+"):
        encode_video(tmp_path / "a.webm", np.zeros((2, 64, 64, 3), np.uint8), 24, "mpeg4")
    assert not list(tmp_path.iterdir())


def test_contact_sheet(numbered):
    clips = np.stack([numbered(16), numbered(16)])
    one, two = contact_sheet(clips, ["cartwheel", "wave"]), contact_sheet(clips, ["a " * 900, "b"], columns=2)
    assert one.mode == "RGB"
    assert one.width > 8 * 144  # eight frames, enlarged to 96 x 144
    assert one.height > 2 * 96
    assert two.width > 1.9 * one.width - 100
    assert two.height < one.height
    assert contact_sheet(clips[:, :3], ["a", "b"]).width < one.width
    with pytest.raises(ValueError, match="2 clips need as many labels"):
        contact_sheet(clips, ["a"])
