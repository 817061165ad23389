"""The table of packets that is kept beside a video."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tubelet.video import Scan, Span, VideoError, open_video, scan_video


@pytest.mark.parametrize("name", ["h264.mp4", "vfr.mkv", "turned.mp4"])
def test_a_packed_scan_comes_back_whole(videos: dict[str, Path], name: str) -> None:
    scan = scan_video(videos[name])
    again = Scan.unpack(scan.pack())
    for field in fields(Scan):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(scan, field.name))
    with open_video(videos[name], scan=again) as known, open_video(videos[name]) as fresh:
        assert known.frames([0, 7, 3]).equal(fresh.frames([0, 7, 3]))


def test_other_bytes_are_no_scan() -> None:
    with pytest.raises(ValueError, match="not a packed scan"):
        Scan.unpack(b"a few bytes")


def test_a_span_of_a_file_is_a_video(videos: dict[str, Path], tmp_path: Path) -> None:
    data = videos["h264.mp4"].read_bytes()
    shard = tmp_path / "a.tar"
    shard.write_bytes(b"x" * 1000 + data + b"y" * 500)
    with open_video(Span(shard, 1000, len(data))) as inside, open_video(data) as alone:
        assert inside.info == alone.info
        assert inside.frames([5, 2]).equal(alone.frames([5, 2]))
    with pytest.raises(VideoError, match="cut short"):
        open_video(Span(shard, 1000, len(data) + 5000))
