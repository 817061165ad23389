"""The table of packets that is kept beside a video."""

from __future__ import annotations

import zlib
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tubelet.video import Scan, Span, VideoError, open_video, scan_video
from tubelet.video.source import Source


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


def test_a_scan_of_another_version_is_no_scan(videos: dict[str, Path]) -> None:
    packed = zlib.decompress(scan_video(videos["one.mp4"]).pack())
    with pytest.raises(ValueError, match="not a packed scan"):
        Scan.unpack(zlib.compress(packed.replace(b'"bits"', b'"bots"')))


def test_a_span_of_a_file_is_a_video(videos: dict[str, Path], tmp_path: Path) -> None:
    data = videos["h264.mp4"].read_bytes()
    shard = tmp_path / "a.tar"
    shard.write_bytes(b"x" * 1000 + data + b"y" * 500)
    with open_video(Span(shard, 1000, len(data))) as inside, open_video(data) as alone:
        assert inside.info == alone.info
        assert inside.frames([5, 2]).equal(alone.frames([5, 2]))
    with pytest.raises(VideoError, match="cut short"):
        open_video(Span(shard, 1000, len(data) + 5000))


@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264.mkv", "vp9.webm", "vp8.webm", "mpeg4.avi", "turned.mp4", "opengop.mkv"]
)
def test_packets_are_taken_out_of_the_file_without_its_container(
    videos: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = scan_video(videos[name])
    with open_video(videos[name], scan=replace(scan, detour="as a test")) as video:
        expected = video.frames([99, 45, 44, 13, 11])
        assert video.fallback == "as a test"
    monkeypatch.setattr("tubelet.video.source.Source.container", lambda source: pytest.fail("the container is opened"))
    with open_video(videos[name], scan=scan) as video:
        assert video.frames([99, 45, 44, 13, 11]).equal(expected)
        assert video.fallback is None


def test_only_the_bytes_between_keyframe_and_last_wanted_frame_are_read(
    videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = scan_video(videos["h264.mp4"])
    read: list[tuple[int, int]] = []
    between = Source.bytes_between
    monkeypatch.setattr(Source, "bytes_between", lambda self, *span: read.append(span) or between(self, *span))
    with open_video(videos["h264.mp4"], scan=scan) as video:
        video.frames([45, 50])
    ((start, end),) = read
    assert start == scan.starts[40]
    assert end <= int((scan.starts + scan.sizes)[scan.order[:56]].max())


def test_a_transport_stream_is_read_through_its_container(videos: dict[str, Path], read_numbers) -> None:
    scan = scan_video(videos["opengop.ts"])
    assert scan.detour is not None
    with open_video(videos["opengop.ts"], scan=scan) as video:
        assert read_numbers(video.frames([3, 80])) == [3, 80]
        assert video.fallback is not None


def test_a_scan_takes_a_few_bytes_a_frame(videos: dict[str, Path]) -> None:
    alone, twice = (len(scan_video(videos[name]).pack()) for name in ("one.mp4", "h264.mp4"))
    assert (twice - alone) / 99 < 10
