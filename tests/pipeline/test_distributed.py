"""What the processes of a run do together, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tubelet.backbones import create_model
from tubelet.pipeline.distributed import join


def share(rank: str, port: str, out: str) -> None:
    """What one process does: this file is a script, too."""
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": port, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    world = join(60)
    model = create_model("r3d_tiny", width=8)
    torch.manual_seed(int(rank))
    model.train()(torch.randn(2, 3, 2, 16, 16))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    world.share_statistics(model)
    torch.save((before, dict(model.named_buffers())), f"{out}/{rank}.pt")


def test_running_statistics_become_the_mean_of_all_ranks(tmp_path: Path, free_port: int) -> None:
    words = [sys.executable, __file__]
    ranks = [subprocess.Popen([*words, rank, str(free_port), str(tmp_path)]) for rank in ("0", "1")]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    (one, after), (other, after_too) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not torch.equal(one["bn1.running_mean"], other["bn1.running_mean"])
    for name, shared in after.items():
        assert torch.equal(shared, after_too[name])
        torch.testing.assert_close(shared.double(), (one[name].double() + other[name].double()) / 2)


if __name__ == "__main__":
    share(*sys.argv[1:])
