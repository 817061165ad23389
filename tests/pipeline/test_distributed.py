"""What the processes of a run do together, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tubelet.pipeline.cluster.distributed import _ALONE, _srun_has_bound_cores, _take_place, join, rank_and_size
from tubelet.pipeline.errors import RunError
from tubelet.pipeline.training.batchnorm import share_statistics


def share(rank: str, port: str, out: str) -> None:
    """What one process does: this file is a script, too."""
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": port, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    world = join(60)
    norm = nn.Sequential(nn.BatchNorm3d(4, momentum=1.0), nn.BatchNorm3d(4).eval())
    torch.manual_seed(int(rank))
    clips = torch.randn(8, 4, 2, 16, 16) * (1 + int(rank)) + 10 * int(rank)
    norm(clips)
    share_statistics(norm, world)
    torch.save((clips, dict(norm.named_buffers())), f"{out}/{rank}.pt")


def test_running_statistics_become_those_of_all_ranks_clips(tmp_path: Path, free_port: int) -> None:
    words = [sys.executable, __file__]
    ranks = [subprocess.Popen([*words, rank, str(free_port), str(tmp_path)]) for rank in ("0", "1")]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    (one, shared), (other, too) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, too[name]) for name, value in shared.items())
    clips = torch.cat([one, other]).double()
    torch.testing.assert_close(shared["0.running_mean"].double(), clips.mean((0, 2, 3, 4)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(shared["0.running_var"].double(), clips.var((0, 2, 3, 4)), rtol=1e-3, atol=0)
    assert torch.equal(shared["1.running_var"], torch.ones(4)), "what is frozen stays"


def test_mpirun_and_srun_say_where_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_ALONE, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})
    with pytest.raises(RunError, match="set MASTER_ADDR to its machine"):
        _take_place()
    os.environ |= {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    _take_place()
    assert [os.environ[name] for name in _ALONE][:4] == ["1", "2", "1", "127.0.0.1"]
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "77"}
    monkeypatch.setattr(os, "environ", slurm | {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"})
    _take_place()
    assert [os.environ[name] for name in _ALONE] == ["3", "4", "1", "10.0.0.7", "20077"]


@pytest.mark.parametrize(
    ("tasks", "cores", "own"), [("2", 4, True), ("1", 4, False), ("2", 1, False), ("2", None, False)]
)
def test_cores_that_srun_gave_to_one_process(
    tasks: str, cores: int | None, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    given = {} if cores is None else {"SLURM_CPUS_PER_TASK": str(cores)}
    monkeypatch.setattr(os, "environ", {"SLURM_STEP_ID": "0", "SLURM_NTASKS": tasks, **given})
    assert _srun_has_bound_cores(2) == own
    monkeypatch.setattr(os, "environ", {"SLURM_NTASKS": tasks, **given})
    assert not _srun_has_bound_cores(2)


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0"}, (1, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "5"}, (0, 1)),  # the batch script itself
        ({"RANK": "0", "WORLD_SIZE": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, (0, 2)),
    ],
)
def test_the_place_that_launchers_give(
    variables: dict[str, str], place: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ:
        if name.startswith(("SLURM", "OMPI", "PMI")) or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rank_and_size() == place


def test_a_place_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="RANK=2, WORLD_SIZE=2: not the place"):
        rank_and_size()


if __name__ == "__main__":
    share(*sys.argv[1:])
