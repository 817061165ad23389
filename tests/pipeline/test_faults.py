"""Bad videos of a run: named once, bounded, and the same clips whether a run knows of them or meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tubelet.datasets import (
    QUARANTINED,
    ClipSettings,
    Position,
    PrepareConfig,
    ShardedSplit,
    TrainOrder,
    prepare,
    train_batches,
)
from tubelet.pipeline.errors import ConfigError, RunError
from tubelet.pipeline.training.faults import Faults, read_quarantine

CUT = ("a", "cut short")


def damage(split: ShardedSplit, video: int, start: float, end: float) -> str:
    """Overwrites a video inside its shard, from one share of its bytes to another. Returns its key."""
    span = split.span(video)
    first, after = int(start * span.size), int(end * span.size)
    with span.path.open("r+b") as handle:
        handle.seek(span.offset + first)
        handle.write(bytes(after - first))
    return split.key(video)


def test_each_is_named_once_with_its_first_cause(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    faults = Faults(tmp_path, 1.0, writes=True)
    assert faults.take([CUT, ("b", "a hang"), CUT], 0, 10) == {"a": 2, "b": 2}
    assert faults.take([("a", "another"), ("c", QUARANTINED)], 1, 10) == {}
    assert faults.by_cause == {"cut short": 2, "a hang": 1, "another": 1, QUARANTINED: 1}
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["key"], line["cause"], line["epoch"]) for line in lines] == [
        ("a", "cut short", 0),
        ("b", "a hang", 0),
    ]
    assert all(line["when"].startswith("20") for line in lines)
    assert capsys.readouterr().err == "bad video a: cut short\nbad video b: a hang\n"
    assert Faults(tmp_path, 1.0, writes=True).known == {"a": 0, "b": 0}
    silent = Faults(tmp_path / "other", 1.0, writes=False)
    assert silent.take([CUT], 3, 10) == {"a": 5}
    assert not silent.file.exists()


def test_too_many_end_the_run_and_the_commonest_cause_is_named(tmp_path: Path) -> None:
    faults = Faults(tmp_path, 0.1, writes=True)
    faults.take([("c", "a hang"), *[CUT] * 9], 0, 10)  # 10 of the 100 that are taken for granted
    with pytest.raises(
        RunError, match=r"11 of the last 20 samples .* --max-faults 0.1 .* 10 times .* cut short .*\(such as a\)"
    ):
        faults.take([CUT], 0, 10)


def test_a_disk_that_dies_late_is_noticed_early(tmp_path: Path) -> None:
    faults = Faults(tmp_path, 0.1, writes=False)
    for _ in range(1000):
        faults.take([], 0, 100)
    faults.take([CUT] * 100, 0, 100)
    with pytest.raises(RunError, match="101 of the last 1000 samples"):
        faults.take([CUT], 0, 100)


def test_what_is_known_already_does_not_count(tmp_path: Path) -> None:
    faults = Faults(tmp_path, 0.0, writes=False)
    assert faults.take([("a", QUARANTINED)] * 500, 0, 1000) == {}


@pytest.mark.parametrize("text", ["no json\n", '{"cause": "no key"}\n', '["a", 1]\n'])
def test_a_file_that_is_no_list_of_bad_videos(tmp_path: Path, text: str) -> None:
    file = tmp_path / "list.jsonl"
    with pytest.raises(ConfigError, match=r"--quarantine takes the quarantine\.jsonl"):
        read_quarantine(file)
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"--quarantine takes the quarantine\.jsonl"):
        read_quarantine(file)


def test_a_line_that_was_not_written_to_its_end_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"key": "a", "epoch": 1}\n{"key": "b", "ep')
    assert read_quarantine(tmp_path / "list.jsonl") == {"a": 1}


def train(split: ShardedSplit, run: Path, start: Position, steps: int, policy: str) -> tuple[list, Position]:
    """The batches of a run from `start` on, with its bad videos looked after as pipeline/train.py does."""
    order = TrainOrder(len(split), 0, 5, 1, 1)
    batches = train_batches(split, ClipSettings(4, 2, 16), order, start, 0, 0, policy)
    faults = Faults(run, 1.0, writes=True)
    batches.bar({key: faults.barred_from(epoch) for key, epoch in faults.known.items()})
    seen, position = [], start
    for _ in range(steps):
        batch, epoch = next(batches), position.epoch
        position = order.after(position)
        seen.append(batch)
        batches.bar(faults.take(batch.faults, epoch, 5))
    return seen, position


@pytest.mark.parametrize("policy", ["replace", "skip"])
def test_a_run_that_goes_on_sees_the_same_clips(dataset: Path, tmp_path: Path, policy: str) -> None:
    """Also where a video fails in some of its frames only, so that it matters whether it is tried."""
    shutil.copytree(dataset, tmp_path / "data")
    split = ShardedSplit(tmp_path / "data", "train")
    damaged = {damage(split, video, 0.6, 0.62) for video in (0, 3, 4, 9)} | {damage(split, 7, 0.0, 1.0)}
    for folder in ("straight", "killed"):
        (tmp_path / folder).mkdir()
    straight, _ = train(split, tmp_path / "straight", Position(0, 0), 12, policy)
    for steps in (2, 4, 7):
        (tmp_path / "killed" / "quarantine.jsonl").unlink(missing_ok=True)
        _, position = train(split, tmp_path / "killed", Position(0, 0), steps, policy)
        resumed, _ = train(split, tmp_path / "killed", position, 12 - steps, policy)
        for ours, theirs in zip(resumed, straight[steps:], strict=True):
            assert torch.equal(ours.clips, theirs.clips)
            assert torch.equal(ours.labels, theirs.labels)
    causes = [cause for batch in straight for _, cause in batch.faults]
    assert QUARANTINED in causes
    assert set(read_quarantine(tmp_path / "straight" / "quarantine.jsonl")) <= damaged


def test_a_run_over_damaged_shards_names_each_bad_video(tubelet, videos: Path, tmp_path: Path) -> None:
    """One in twenty, whole, in part and in their header."""
    for path in [path for path in videos.rglob("*") if path.is_file()]:
        for copy in range(5):
            (folder := tmp_path / "videos" / path.parent.name).mkdir(parents=True, exist_ok=True)
            (folder / f"{path.stem}-{copy}{path.suffix}").symlink_to(path)
    prepare(PrepareConfig(tmp_path / "data", tmp_path / "videos", split="train", check="packets", shard_mb=0.5))
    split = ShardedSplit(tmp_path / "data", "train")
    parts = [(0.0, 1.0), (0.0, 0.1), (0.4, 1.0)]
    damaged = {damage(split, video, *parts[video // 20 % 3]) for video in range(0, len(split), 20)}
    assert (len(split), len(damaged)) == (120, 6)
    words = ("train", "--model", "timesformer_tiny", "--model-args", "dim=32", "depth=1", "heads=2", "--workers", 2)
    words += ("--data", tmp_path / "data", "--batch-size", 16, "--repeats", 2, "--balance", 0.5, "--eval-every", 0)
    run = tmp_path / "run"
    done = tubelet(*words, "--epochs", 2, "--out", run)
    assert done.code == 0, done.out
    assert set(read_quarantine(run / "quarantine.jsonl")) == damaged
    assert f"{len(damaged)} videos could not be read; " in done.out
    assert all(done.out.count(f"bad video {key}: ") == 1 for key in damaged)

    other = tmp_path / "other"
    again = tubelet(*words, "--epochs", 1, "--out", other, "--quarantine", run / "quarantine.jsonl")
    assert again.code == 0, again.out
    assert "6 of its 6 videos are here" in again.out
    assert not (other / "quarantine.jsonl").exists()
    last = json.loads((other / "log.jsonl").read_text().splitlines()[-1])
    assert last["faults"].keys() == {QUARANTINED}
