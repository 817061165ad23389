"""What a run compares before it starts, and what it notices while it goes on."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tubelet.datasets import Position, ShardedSplit, TrainOrder
from tubelet.pipeline.cluster import preflight as module
from tubelet.pipeline.cluster.distributed import World
from tubelet.pipeline.cluster.preflight import preflight
from tubelet.pipeline.errors import RunError
from tubelet.pipeline.pictures.curves import draw_curves
from tubelet.pipeline.training.anomalies import FILE, Anomalies
from tubelet.pipeline.training.faults import Faults
from tubelet.pipeline.training.flops import peak_flops
from tubelet.pipeline.training.logs import RunLog
from tubelet.pipeline.training.meter import Meter
from tubelet.pipeline.training.profiling import Profile
from tubelet.pipeline.training.summary import said

ALONE = World(0, 1, 1, torch.device("cpu"))


class Several(World):
    """Ranks of which the last has something else."""

    odd: str

    def gather(self, value: object) -> list:
        other = replace(value, host="far", **{self.odd: "another"})  # type: ignore[type-var]
        return [value] * (self.size - 1) + [other]


def test_ranks_that_agree() -> None:
    line = preflight(ALONE, "configuration", "data")
    assert line.startswith("1 process on 1 host (CPU) agree; least free memory")


@pytest.mark.parametrize(
    ("odd", "what"),
    [("code", "tubelet"), ("torch", "torch"), ("configuration", "the configuration"), ("data", "the data")],
)
def test_a_rank_that_differs_is_named(odd: str, what: str) -> None:
    world = Several(0, 3, 3, torch.device("cpu"))
    object.__setattr__(world, "odd", odd)
    with pytest.raises(RunError, match=rf"{what} of rank 2 on far is not that of rank 0 on .*: another instead of"):
        preflight(world, "configuration", "data")


def test_free_memory_is_read() -> None:
    assert 0 < module._free_memory(torch.device("cpu")) < 2**46


@pytest.fixture
def anomalies(dataset: Path, tmp_path: Path) -> Anomalies:
    split = ShardedSplit(dataset, "train")
    order = TrainOrder.fitting(len(split), 0, 2, 1, 1)
    return Anomalies(tmp_path, split, order, most=2, writes=True)


def test_a_spike_is_named_with_its_videos(anomalies: Anomalies) -> None:
    usual = [(Position(0, 0), 2.0 + 0.1 * (i % 3)) for i in range(40)]
    assert anomalies.take(usual, 40) == []
    (spike,) = anomalies.take([(Position(0, 2), 9.0), (Position(0, 4), 2.1)], 42)
    assert (spike["step"], spike["loss"]) == (41, 9.0)
    assert len(spike["keys"]) == 2
    assert set(spike["keys"]) <= {anomalies.split.key(i) for i in range(len(anomalies.split))}
    assert spike["keys"] != anomalies.keys(Position(0, 4))


def test_losses_that_are_no_numbers_are_passed_over_and_then_the_end(anomalies: Anomalies, tmp_path: Path) -> None:
    nan = (Position(0, 0), math.nan)
    anomalies.take([nan, nan, (Position(0, 2), 1.0), nan, nan], 5)
    assert anomalies.passed == 4
    with pytest.raises(RunError, match="the loss is inf at step 6, as in the 2 steps before it"):
        anomalies.take([(Position(1, 0), math.inf)], 6)
    lines = (tmp_path / FILE).read_text().splitlines()
    assert len(lines) == 5
    assert '"step": 6, "epoch": 1' in lines[-1]


def test_a_loss_that_is_no_number_is_not_in_the_mean(tmp_path: Path) -> None:
    meter = Meter(ALONE, Faults(tmp_path, 0.1, writes=True), videos=2, flops=1.0, precision="fp32")
    batch = SimpleNamespace(faults=[], slow=[])
    log = RunLog(tmp_path, 0, 3, {}, None)
    for step, norms in enumerate([(1.0, math.nan), (math.nan,)], 1):
        for norm in norms:
            meter.add(torch.tensor(3.0), torch.tensor(1), batch, 2)
            meter.step(Position(0, 0), norm)
        reading = meter.read(0.1, norms[-1], 0)
        log.write(step, "train", **reading.line)
    log.close()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [3.0, None]
    assert [line["grad_norm"] for line in lines] == [None, None]
    draw_curves(tmp_path, tmp_path / "curves.png")


def test_a_profile_of_steps(tmp_path: Path) -> None:
    short, whole = Profile(tmp_path / "short", True), None
    assert short.close() == "no profile: the run has not 10 steps"
    (tmp_path / "long").mkdir()
    whole = Profile(tmp_path / "long", True)
    for _ in range(22):
        torch.ones(3).sum()
        whole.step()
    assert str(whole.file) in (whole.close() or "")
    assert whole.file.stat().st_size > 100
    assert Profile(tmp_path, False).close() is None


def test_what_bound_a_run_is_said() -> None:
    rank = {"host": "a", "step_ms": 100.0, "data_wait_ms": 60.0, "forward_ms": 10.0}
    summary = {
        "bound_by": "data", "step_ms": 100.0, "data_ms": 60.0, "communication_ms": 5.0, "computing_ms": 35.0,
        "slowest": {"rank": 1, **rank, "behind_ms": 7.0}, "ranks": [rank, rank],
    }  # fmt: skip
    assert said(summary) == (
        "bound by data (computing 35%, data 60%, communication 5% of a step of 100 ms); "
        "slowest: rank 1 on a, by 7 ms a step"
    )
    assert peak_flops(torch.device("cpu"), "fp32") is None


def test_a_process_that_hears_nothing_ends_with_a_word(tmp_path: Path) -> None:
    code = (
        "import sys, time, torch\n"
        "from pathlib import Path\n"
        "from tubelet.pipeline.cluster.distributed import World\n"
        "from tubelet.pipeline.cluster.watchdog import Watchdog\n"
        "dog = Watchdog(World(3, 4, 4, torch.device('cpu')), 0.2, Path(sys.argv[1]))\n"
        "with dog.patient('the checkpoint'):\n    time.sleep(0.6)\n"
        "dog.beat('step 7')\n"
        "time.sleep(30)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: rank 3 on ")
    assert "has waited too long in step 7 (--timeout 0.2 s)" in ended.stderr
    assert "File" in (tmp_path / "stuck-rank-3.txt").read_text()
