"""Videos streamed by worker processes, and the ways of naming them."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tubelet.datasets import DataError, StreamedClip, StreamedPart, StreamedVideo, StreamSettings, open_videos, streamed
from tubelet.video import Windows

sys.path.append(str(Path(__file__).parent))  # for the worker processes, which get it from here
from streamed_videos import FaultyVideos

SETTINGS = StreamSettings(Windows(4, length=8, every=3), 32)


def gone_through(videos, workers: int, parts: list[range], settings: StreamSettings = SETTINGS, ahead: int = 3):
    """By part: (video, start, end, pixels) of each clip, and (video, cause) of each end."""
    found: dict[int, list] = {}
    over = set()
    for event in streamed(videos, settings, iter(enumerate(parts)), workers, ahead):
        assert event.part not in over, "nothing comes of a part after its end"
        if isinstance(event, StreamedClip):
            found.setdefault(event.part, []).append((event.video, event.start, event.end, event.frames.tobytes()))
        elif isinstance(event, StreamedVideo):
            found.setdefault(event.part, []).append((event.video, event.cause))
        else:
            assert isinstance(event, StreamedPart)
            over.add(event.part)
    assert len(over) == len(parts)
    return found


def test_parts_come_alike_with_any_number_of_workers(videos: Path, dataset: Path) -> None:
    """Of files and of shards; sizes and labels too."""
    files, shards = open_videos(videos), open_videos(dataset)
    assert len(files) == len(shards) == 24
    parts = [range(0, 5), range(5, 6), range(6, 12)]
    alone = gone_through(files, 0, parts)
    assert all(len(events) > len(part) for events, part in zip(alone.values(), parts, strict=True))
    assert alone == gone_through(files, 2, parts) == gone_through(files, 5, parts, ahead=1)
    by_key = {shards.key(number): number for number in range(24)}
    same = [by_key[files.key(number)] for number in range(5)]
    theirs = gone_through(shards, 1, [same])[0]
    assert [event[1:] for event in theirs] == [event[1:] for event in alone[0]]
    assert [shards.labels(number) for number in same] == [files.labels(number) for number in range(5)]
    assert {shards.split(number) for number in range(24)} == {"train", "val"}
    assert not multiprocessing.active_children()


def test_videos_that_hang_or_crash_are_named_and_the_others_come(videos: Path) -> None:
    files = sorted(videos.rglob("*.*"))[:5]
    how = {1: "hangs", 3: "crashes"}
    settings = StreamSettings(SETTINGS.windows, 32, deadline=1.5)
    found = gone_through(FaultyVideos(files, how), 1, [range(5)], settings)[0]
    healthy = gone_through(FaultyVideos(files, {}), 0, [range(5)])[0]
    causes = {event[0]: event[1] for event in found if len(event) == 2}
    assert causes == {0: None, 1: causes[1], 2: None, 3: causes[3], 4: None}
    assert "not decoded within 1.5 s" in causes[1]
    assert "crashed (exit code -11)" in causes[3]
    assert [e for e in found if e[0] not in how] == [e for e in healthy if e[0] not in how]


def test_lists_of_paths(videos: Path, tmp_path: Path) -> None:
    some = sorted(videos.rglob("*.*"))[:3]
    (tmp_path / "list.txt").write_text("\n".join(map(str, some)) + "\n")
    assert [open_videos(tmp_path / "list.txt").labels(number) for number in range(3)] == [[], [], []]
    rows = "".join(
        f"{path},{start},{split}\n"
        for path, start, split in zip(some, ("", 0.2, ""), ("train", "val", ""), strict=True)
    )
    (tmp_path / "list.csv").write_text(f"path,start,split\n{rows}")
    listed = open_videos(tmp_path / "list.csv")
    assert [listed.split(number) for number in range(3)] == ["train", "val", None]
    _, first, _ = listed.open(1, "pyav")
    assert first > 0
    pq.write_table(
        pa.table({"path": [str(path) for path in some], "labels": [["a"], ["a", "b"], []]}), tmp_path / "l.parquet"
    )
    several = open_videos(tmp_path / "l.parquet")
    assert several.multilabel
    assert several.labels(1) == ["a", "b"]
    assert len(open_videos(some[0])) == 1
    assert len(open_videos(tmp_path / "list.csv", split="val")) == 1
    assert np.array_equal(several.sizes, [path.stat().st_size for path in some])


def test_what_cannot_be_streamed_is_said(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_videos(tmp_path / "nothing")
    (tmp_path / "bad.csv").write_text("file\na.mp4\n")
    with pytest.raises(DataError, match="needs the column path; it has file"):
        open_videos(tmp_path / "bad.csv")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="lists no videos"):
        open_videos(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="no videos of a split 'test'"):
        open_videos(videos, split="test")
    (tmp_path / "list.txt").write_text(f"gone.mp4\n{next(videos.rglob('*.mp4'))}\n")
    causes = [
        event[1] for event in gone_through(open_videos(tmp_path / "list.txt"), 0, [range(2)])[0] if len(event) == 2
    ]
    assert causes == ["no such file", None]
