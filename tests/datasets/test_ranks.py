"""Several processes prepare one dataset, and none waits for ever for one that is lost."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tubelet.datasets import DataError, PrepareConfig, prepare
from tubelet.datasets.processes.ranks import Ranks

FORK = multiprocessing.get_context("fork")


def meet(folder: Path, rank: int, act: str, results: multiprocessing.SimpleQueue) -> None:
    try:
        with Ranks(folder, rank, 3, patience=2) as ranks:
            first = ranks.gather("first", rank * 10)
            if rank == 1 and act == "die":
                os._exit(9)
            if rank == 1 and act == "fail":
                raise ValueError("the wheel came off")
            time.sleep(0.5 * rank)
            results.put((rank, first, ranks.gather("second", None)))
    except (DataError, ValueError) as error:
        results.put((rank, str(error)))


def outcome(folder: Path, act: str) -> list[tuple]:
    results = FORK.SimpleQueue()
    processes = [FORK.Process(target=meet, args=[folder, rank, act, results]) for rank in (2, 0, 1)]
    for process in processes:
        process.start()
        time.sleep(0.1)
    for process in processes:
        process.join(30)
        assert process.exitcode in (0, 9)
    return sorted(results.get() for _ in range(3 - (act == "die")))


def test_they_meet_after_any_earlier_meeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tubelet.datasets.processes.ranks._BEAT_S", 0.3)
    died = outcome(tmp_path / "ranks", "die")
    assert [result[0] for result in died] == [0, 2]
    assert all("rank 1 of 3 has given no sign of life for 2 s (waited for: second)" in text for _, text in died)
    failed = outcome(tmp_path / "ranks", "fail")
    assert failed[1] == (1, "the wheel came off")
    assert {failed[0][1], failed[2][1]} == {"rank 1 of 3 ended with an error: the wheel came off"}
    assert outcome(tmp_path / "ranks", "") == [(rank, [0, 10, 20], [None] * 3) for rank in range(3)]
    assert not (tmp_path / "ranks").exists()


def test_one_that_does_not_come(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rank 1 of 2 has given no sign of life for 1 s \(waited for: start\)"):
        Ranks(tmp_path / "ranks", 0, 2, patience=1).__enter__()


def share(config: PrepareConfig, size: int) -> list[int | None]:
    processes = [FORK.Process(target=prepare, args=[config, rank, size]) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_the_same_bytes_from_any_number_of_ranks(videos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    for path in sorted(path for path in videos.rglob("*.*"))[::3]:
        (few / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, few / path.parent.name)
    config = PrepareConfig(out=tmp_path / "one", videos=few, name="same", shard_mb=0.02, encode="fast", workers=1)
    prepare(config)
    assert share(replace(config, out=tmp_path / "three"), 3) == [0, 0, 0]
    ours, theirs = (
        {path.name: path.read_bytes() for path in (tmp_path / out).iterdir() if path.name != "report.json"}
        for out in ("one", "three")
    )
    assert ours == theirs
    assert len(ours) > 6


def test_more_or_fewer_ranks_go_on_with_the_work(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PrepareConfig(out=tmp_path / "out", videos=videos, name="same", shard_mb=0.1, check="packets", workers=1)
    monkeypatch.setattr("tubelet.datasets.preparing.steps.plan_shards", None)
    assert share(config, 3) == [1, 1, 1]
    monkeypatch.undo()
    monkeypatch.setattr("tubelet.datasets.preparing.checking.scan_video", None)
    assert share(config, 2) == [0, 0]
    prepare(config)


def test_the_command_under_a_launcher(start, videos: Path, tmp_path: Path) -> None:
    words = ("tubelet", "prepare", "--videos", videos, "--check", "packets", "--name", "same", "--out")
    two = [
        start(*words, tmp_path / "two", SLURM_PROCID=str(rank), SLURM_NTASKS="2", SLURM_JOB_ID="7", SLURM_STEP_ID="0")
        for rank in (0, 1)
    ]
    first, second = (process.wait(60) for process in two)
    assert (first.code, second.code) == (0, 0), first.out + second.out
    assert "train: 20 of 20 videos" in first.out
    assert second.out == ""
    prepare(PrepareConfig(out=tmp_path / "one", videos=videos, check="packets", name="same"))
    ours, theirs = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]
