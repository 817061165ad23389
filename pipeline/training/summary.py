"""What bound a run: data, computing or the exchange of gradients, and which rank was the slowest."""

from __future__ import annotations

import socket
import time
from typing import Any

import torch
import torch.distributed as dist

from ..cluster.distributed import World
from .meter import Meter

_EXCHANGES = 3


def summarise(meter: Meter, parameters: int, world: World) -> dict[str, Any]:
    """Times of a step in ms, of all ranks. Every rank calls it, at the end.

    Ranks go in step, so the slowest is the one whose data and forward pass, which it does by itself, take longest. The
    exchange is measured here, an all-reduce of as many numbers as there are parameters and nothing beside it; in
    training part of it may hide behind the backward pass.
    """
    steps = max(meter.steps_in_all, 1)
    mine = {
        "host": socket.gethostname(),
        "step_ms": 1000 * meter.elapsed_in_all / steps,
        "data_wait_ms": 1000 * meter.waited_in_all / steps,
        "forward_ms": 1000 * meter.computed_in_all / steps,
    }
    ranks = world.gather(mine)
    exchange = _exchange_ms(parameters, world)
    waits = [rank["data_wait_ms"] for rank in ranks]
    alone = [rank["data_wait_ms"] + rank["forward_ms"] for rank in ranks]
    slowest = max(range(len(ranks)), key=alone.__getitem__)
    step = sum(rank["step_ms"] for rank in ranks) / len(ranks)
    parts = {"data": max(waits), "communication": exchange, "computing": max(step - max(waits) - exchange, 0.0)}
    return {
        "bound_by": max(parts, key=parts.__getitem__),
        "step_ms": step,
        **{f"{name}_ms": value for name, value in parts.items()},
        "slowest": {"rank": slowest, **ranks[slowest], "behind_ms": alone[slowest] - min(alone)},
        "ranks": ranks,
    }


def said(summary: dict[str, Any]) -> str:
    step = max(summary["step_ms"], 1e-9)
    shares = ", ".join(f"{name} {summary[f'{name}_ms'] / step:.0%}" for name in ("computing", "data", "communication"))
    slowest = summary["slowest"]
    rank = f"; slowest: rank {slowest['rank']} on {slowest['host']}, by {slowest['behind_ms']:.0f} ms a step"
    several = len(summary["ranks"]) > 1
    return f"bound by {summary['bound_by']} ({shares} of a step of {step:.0f} ms){rank if several else ''}"


def _exchange_ms(parameters: int, world: World) -> float:
    if world.size == 1:
        return 0.0
    gradients = torch.zeros(parameters, device=world.device)
    times = []
    for _ in range(_EXCHANGES):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(gradients)
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1000 * min(times)
