"""Preparing goes on where a kill or a full disk has stopped it, to the same bytes; and only the same command does."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tubelet.datasets import DataError, PrepareConfig, ShardedSplit, prepare, read_card
from tubelet.datasets.processes.journal import Journal

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def some(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen of the videos, one of which is no video, and the times of parts of them."""
    folder = tmp_path_factory.mktemp("some")
    rows = ["path,label,start,end"]
    for number, path in enumerate(sorted(path for path in videos.rglob("*.*"))[::2]):
        shutil.copy(path, folder / f"{number}{path.suffix}")
        rows.append(f"{number}{path.suffix},{path.parent.name},,")
    rows += [f"{row.split(',')[0]},{row.split(',')[1]},0.1,0.5" for row in rows[1:4]]
    (folder / "bad.mp4").write_bytes((folder / f"0{next(folder.glob('0.*')).suffix}").read_bytes()[:2000])
    rows.append("bad.mp4,left,,")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def config_of(some: Path, out: Path, **changes: object) -> PrepareConfig:
    config = PrepareConfig(out=out, videos=some, labels=(some / "labels.csv",), shard_mb=0.02, max_bad="50%")
    return replace(config, name="some", encode="fast", short_side=48, workers=2, **changes)


@pytest.fixture(scope="module")
def undisturbed(some: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    prepare(config_of(some, out))
    return out


def contents(out: Path) -> dict[str, bytes]:
    """All files, of the report what is no measurement of time."""
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    report = json.loads(files["report.json"])
    for name in ("source_ms", "encoded_ms"):
        report["encoding"]["sample"].pop(name)
    return {**files, "report.json": json.dumps(report).encode()}


def lines_of(out: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in (out / ".unfinished").glob("*-0.jsonl"))


def test_parts_are_cut_and_small(some: Path, undisturbed: Path) -> None:
    report = json.loads((undisturbed / "report.json").read_text())
    assert report["encoding"]["videos"] == report["good"] == 15
    assert [Path(entry["path"]).name for entry in report["bad"]] == ["bad.mp4"]
    assert 25 < report["encoding"]["sample"]["psnr"] < 60
    frames = 0
    for name in read_card(undisturbed).splits:
        split = ShardedSplit(undisturbed, name)
        for index in range(len(split)):
            with split.open(index) as video:
                assert split.frame_range(index) == (0, video.info.frames)
                assert min(video.info.height, video.info.width) == 48
                frames += video.info.frames
    assert frames == report["encoding"]["frames"]
    size = sum(path.stat().st_size for path in undisturbed.glob("*.tar"))
    assert report["encoding"]["bytes"] < size


def test_killed_at_any_moment(some: Path, undisturbed: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    config = config_of(some, tmp_path / "out")
    done = 0
    for _ in range(3):
        process = FORK.Process(target=prepare, args=[config])
        process.start()
        goal = done + rng.randrange(1, 16)
        while process.is_alive() and lines_of(config.out) < goal:
            time.sleep(0.001)
        time.sleep(rng.random() / 50)
        process.kill()
        process.join()
        assert lines_of(config.out) >= done or not (config.out / ".unfinished").exists(), "something was done twice"
        done = lines_of(config.out)
        for shard in config.out.glob("*.tar"):
            assert shard.read_bytes() == (undisturbed / shard.name).read_bytes()
            assert shard.with_suffix(".index.arrow").is_file()
    prepare(config)
    assert contents(config.out) == contents(undisturbed)


def test_what_is_done_is_not_done_again(
    some: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while the shards are written: the rest is not looked at again, and whole shards are left alone."""

    def full(shard: Path) -> None:
        if "train-000001" in shard.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(shard))
        write_index(shard)

    from tubelet.datasets.shards.index import write_index

    config = config_of(some, tmp_path / "out")
    monkeypatch.setattr("tubelet.datasets.preparing.writing.write_index", full)
    with pytest.raises(DataError, match=r"out: the disk is full\. Writing the shards needs about 0\.\d MB more"):
        prepare(config)
    whole = {path.name: path.stat().st_mtime_ns for path in config.out.glob("*.tar")}
    assert len(whole) < len(list(undisturbed.glob("*.tar")))
    assert not list((config.out / ".unfinished").glob("shards-*"))

    def must_not_run(*arguments: object, **named: object) -> None:
        raise AssertionError("this was done already")

    monkeypatch.setattr("tubelet.datasets.preparing.writing.write_index", write_index)
    for name in ("checking.scan_video", "encoding.reencode"):
        monkeypatch.setattr(f"tubelet.datasets.preparing.{name}", must_not_run)
    prepare(config)
    assert whole.items() <= {path.name: path.stat().st_mtime_ns for path in config.out.glob("*.tar")}.items()
    assert contents(config.out) == contents(undisturbed)
    prepare(config)  # finished, which it says, and touches nothing
    assert contents(config.out) == contents(undisturbed)


def test_a_disk_that_is_full(some: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120k", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        config = replace(config_of(some, disk / "out"), encode="keep")
        with pytest.raises(DataError, match=r"disk is full.* MB more, and 0\.\d MB are free.*start the same command"):
            prepare(config)
        room = "remount,size=20m"
        subprocess.run(["mount", "-o", room, str(disk)], check=True)
        whole = sorted(disk.glob("out/*.tar"))
        assert all(path.with_suffix(".index.arrow").is_file() for path in whole)
        prepare(config)
        prepare(replace(config, out=tmp_path / "other"))
        ours, theirs = (
            {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
            for out in (disk / "out", tmp_path / "other")
        )
        assert ours == theirs
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_another_command_is_told_what_differs(some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(some, videos)
    config = config_of(videos, tmp_path / "out")

    def stop(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("tubelet.datasets.preparing.steps.plan_shards", stop)
        with pytest.raises(OSError, match="Input/output"):
            prepare(config)
    refused = r"unfinished work of another command: "
    with pytest.raises(DataError, match=refused + r"--shard-mb is 1 and was 0\.02, --seed is 3 and was 0\. Start"):
        prepare(replace(config, shard_mb=1, seed=3))
    os.utime(videos / "bad.mp4")
    with pytest.raises(DataError, match=refused + r"bad has changed\. Start"):
        prepare(config)
    with (videos / "labels.csv").open("a") as labels:
        labels.write("\nanother.mp4,left,,")
    with pytest.raises(DataError, match=refused + r"another is new, .*bad has changed"):
        prepare(config)
    (config.out / "old-train-000000.index.arrow").touch()  # of a dataset with more shards, or of another name
    (config.out / "old-train-000000.index.parquet").touch()
    card = prepare(replace(config, overwrite=True, workers=1))
    assert not list(config.out.glob("old-*"))
    assert sum(split.listed for split in card.splits.values()) == 17
    with pytest.raises(DataError, match=r"already holds a dataset; add --overwrite.*--encode is keep and was fast"):
        prepare(replace(config, encode="keep"))


def test_two_commands_at_once(some: Path, tmp_path: Path) -> None:
    config = config_of(some, tmp_path / "out")
    process = FORK.Process(target=prepare, args=[config])
    process.start()
    while not lines_of(config.out):
        time.sleep(0.01)
    with pytest.raises(DataError, match="another command is at work here"):
        prepare(config)
    process.join()
    assert process.exitcode == 0


def test_a_torn_line_of_a_journal_is_not_there(tmp_path: Path) -> None:
    with Journal(tmp_path, "checking", 0) as journal:
        journal.add(0, "a")
        journal.add(3, ["b", None])
    with (tmp_path / "checking-0.jsonl").open("ab") as handle:
        handle.write(b'[1, "torn')
    journal = Journal(tmp_path, "checking", 0)
    assert dict(journal.read()) == {0: "a", 3: ["b", None]}
    with journal:
        journal.add(1, "whole")
    with Journal(tmp_path, "checking", 1) as other:
        other.add(2, "c")
    assert dict(Journal(tmp_path, "checking", 5).read()) == {0: "a", 3: ["b", None], 1: "whole", 2: "c"}
