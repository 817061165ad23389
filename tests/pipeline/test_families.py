"""Every family under all that saves memory, in two real processes, one family after another."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

from tubelet.backbones import create_model, list_models
from tubelet.pipeline.checkpoints.saving import take
from tubelet.pipeline.cluster.distributed import World, join, leave
from tubelet.pipeline.config import OptimConfig, SystemConfig
from tubelet.pipeline.training.batchnorm import share_statistics
from tubelet.pipeline.training.ema import Average
from tubelet.pipeline.training.engine import deepspeed_json, set_learning_rate, start_engine, step, whole_parameters
from tubelet.pipeline.training.groups import set_training
from tubelet.pipeline.training.losses import build_loss

STEPS = 2
OPTIM = OptimConfig(lr=1e-3, accumulate=2, ema=0.9)
SYSTEM = SystemConfig(precision="bf16", zero_stage=2, grad_checkpointing=True)


@pytest.mark.slow
def test_every_family_trains_in_two_processes(free_port: int) -> None:
    """ZeRO 2 in bf16 with accumulation, activation checkpointing and an average of the weights: the ranks end with the
    same weights, moved from the stem to the head."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    place |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        said = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)[-5000:]
    assert [line for line in said[0].splitlines() if line in list_models()] == list_models("*_tiny")


def train(name: str, world: World) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, frames=8, size=32)
    model.set_grad_checkpointing(True)
    size = sum(parameter.numel() for parameter in model.parameters())
    engine = start_engine(model, OPTIM, SYSTEM, deepspeed_json(OPTIM, SYSTEM, 2, size), world)
    average = Average(engine.module, OPTIM.ema)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    set_training(model, freeze_norms=False)
    criterion = build_loss(OPTIM)
    draw = torch.Generator().manual_seed(world.rank)
    batches = [(torch.randn(2, 3, 8, 32, 32, generator=draw), torch.tensor([0, 1])) for _ in range(OPTIM.accumulate)]
    losses = []
    for number in range(STEPS):
        set_learning_rate(engine, OPTIM.lr)
        loss = torch.zeros(())
        for clips, labels in batches:
            part = criterion(engine(clips).float(), labels)
            engine.backward(part)
            norm = step(engine, OPTIM, SYSTEM)
            loss += part.detach() / OPTIM.accumulate
        average.update(number + 1)
        losses.append(float(loss))
    assert engine.global_steps == STEPS, name
    assert engine.skipped_steps == 0, name
    assert all(map(math.isfinite, [*losses, float(norm)])), (name, losses, norm)
    after = dict(model.named_parameters())
    for layer in (model.layer_groups()[0], model.layer_groups()[-1]):
        assert not any(torch.equal(before[key], after[key]) for key in layer), name
    everywhere = world.gather({key: float(value.detach().double().sum()) for key, value in after.items()})
    assert everywhere[0] == everywhere[1], name
    share_statistics(model, world)
    shown, training = take(engine, average, whole_parameters(engine), world)
    assert (shown is not None) == world.is_main, name
    assert len(training) == (3 * len(after) + 1) * world.is_main, name
    if world.is_main:
        print(name, flush=True)


def main() -> None:
    world = join(120, always=True)
    for name in list_models("*_tiny"):
        train(name, world)
    leave(0)


if __name__ == "__main__":
    main()
