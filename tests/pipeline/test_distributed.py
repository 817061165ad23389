"""What the processes of a run do together, with real processes."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.multiprocessing as mp

from tubelet.backbones import create_model
from tubelet.pipeline.distributed import join


def _share(rank: int, port: int, out: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    world = join(60)
    model = create_model("r3d_tiny", width=8)
    torch.manual_seed(rank)
    model.train()(torch.randn(2, 3, 2, 16, 16))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    world.share_statistics(model)
    torch.save((before, dict(model.named_buffers())), f"{out}/{rank}.pt")


def test_running_statistics_become_the_mean_of_all_ranks(tmp_path: Path, free_port: int) -> None:
    mp.spawn(_share, (free_port, str(tmp_path)), nprocs=2)
    (one, after), (other, after_too) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not torch.equal(one["bn1.running_mean"], other["bn1.running_mean"])
    for name, shared in after.items():
        assert torch.equal(shared, after_too[name])
        torch.testing.assert_close(shared.double(), (one[name].double() + other[name].double()) / 2)
