"""`tubelet evaluate`: one process and several, a kill in the middle, what it leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pandas
import pytest

from tubelet.datasets import ShardedSplit


def words(checkpoint: Path, dataset: Path, out: Path) -> tuple:
    data = ("--data", dataset, "--split", "train", "--views", "3x1")
    return ("--checkpoint", checkpoint, *data, "--batch-size", 3, "--workers", 0, "--out", out)


@pytest.fixture(scope="module")
def alone(checkpoint: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON file of an evaluation by one process that nothing disturbed."""
    from tubelet.launch.evaluate import main

    out = tmp_path_factory.mktemp("alone") / "alone.json"
    main([*map(str, words(checkpoint, dataset, out))])
    return out


def test_what_it_leaves(alone: Path, dataset: Path) -> None:
    told = json.loads(alone.read_text())
    frame = pandas.read_parquet(alone.with_suffix(".parquet"))
    split = ShardedSplit(dataset, "train")
    assert list(frame.key) == [split.key(number) for number in range(len(split))]
    assert list(frame.label) == [split.classes[label] for label in split.labels]
    assert told["video_top1"] == (frame.label == frame.predicted).mean() == frame.right.mean()
    assert told["clip_top1"] == frame.clip_top1.sum() / (3 * len(frame))
    assert told["mean_class"] == pytest.approx(frame.groupby("label").right.mean().mean())
    pair = told["confused"][0]
    assert pair["videos"] == ((frame.label == pair["label"]) & (frame.predicted == pair["predicted"])).sum() > 0
    assert alone.with_suffix(".png").stat().st_size > 1000
    assert {file.name for file in alone.parent.iterdir()} == {"alone.json", "alone.parquet", "alone.png"}


@pytest.mark.slow
def test_two_processes_and_a_kill_change_nothing(
    start, ranks, tubelet, alone: Path, checkpoint: Path, dataset: Path, tmp_path: Path, free_port: int
) -> None:
    out = tmp_path / "two.json"
    arguments = words(checkpoint, dataset, out)
    killed = ranks(free_port, "evaluate", *arguments)
    deadline = time.monotonic() + 100
    while not any(file.stat().st_size for file in tmp_path.glob(".two.unfinished/scores-*.jsonl")):
        assert time.monotonic() < deadline, killed[0].log.read_text()
        time.sleep(0.005)
    for rank in killed:
        rank.kill()
    assert not out.exists()

    done = tubelet("evaluate", *arguments, "--against", alone)  # by one process now
    assert done.code == 0, done.out
    assert "going on" in done.out
    assert out.with_suffix(".parquet").read_bytes() == alone.with_suffix(".parquet").read_bytes()

    launcher = ("torchrun", "--nproc-per-node", 2, "--master-port", free_port, "launch/evaluate.py")
    both = start(*launcher, *arguments, "--against", alone).wait(100)
    assert both.code == 0, both.out
    assert "going on" not in both.out
    assert out.with_suffix(".parquet").read_bytes() == alone.with_suffix(".parquet").read_bytes()
    told = json.loads(out.read_text())
    assert told.pop("against")["difference"] == 0
    assert told == json.loads(alone.read_text())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--out", "r.csv"), "--out r.csv: give a file that ends in .json"),
        (("--against", "no.json"), "no.json: has no results of `tubelet evaluate`"),
        (("--split", "val", "--against", "{alone}"), "is of split train, not of val"),
        (("--out", "{alone}/r.json"), "cannot be written (Not a directory)"),
    ],
)
def test_the_wrong_way_round(
    more: tuple, message: str, alone: Path, checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    from tubelet.launch.evaluate import main
    from tubelet.pipeline.errors import ConfigError

    arguments = [*map(str, words(checkpoint, dataset, tmp_path / "r.json"))]
    with pytest.raises(ConfigError) as error:
        main([*arguments, *(word.format(alone=alone) for word in more)])
    assert message in str(error.value)
