"""What all processes of a run must agree on, compared before anything heavy."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from ..errors import RunError
from .distributed import World
from .environment import git_revision, version_of


@dataclass(frozen=True)
class _Facts:
    host: str
    device: str
    free: int  # bytes of memory
    code: str
    torch: str
    configuration: str
    data: str


# What must be alike, and what to do where it is not.
_ALIKE = {
    "code": "tubelet",
    "torch": "torch",
    "configuration": "the configuration",
    "data": "the data",
}


def preflight(world: World, configuration: str, data: str) -> str:
    """Compares code, configuration and data of all ranks, and has their devices add up a number. configuration, data:
    texts that must be the same everywhere. Returns a line for the log. Raises RunError naming the ranks and hosts that
    differ."""
    everyone = world.gather(_facts(world, configuration, data))
    first = everyone[0]
    for name, said in _ALIKE.items():
        odd = [rank for rank, facts in enumerate(everyone) if getattr(facts, name) != getattr(first, name)]
        if odd:
            facts = everyone[odd[0]]
            raise RunError(
                f"{said} of rank {odd[0]} on {facts.host} is not that of rank 0 on {first.host}: "
                f"{getattr(facts, name)} instead of {getattr(first, name)}"
                + (f", and so with {len(odd) - 1} other ranks" if len(odd) > 1 else "")
                + ". Start all of them from the same code, with the same arguments, on the same data"
            )
    _add_up(world)
    hosts = {facts.host for facts in everyone}
    least = min(range(world.size), key=lambda rank: everyone[rank].free)
    return (
        f"{world.size} process{'es' * (world.size > 1)} on {len(hosts)} host{'s' * (len(hosts) > 1)} "
        f"({first.device}) agree; least free memory {everyone[least].free / 2**30:.1f} GiB, at rank {least} on "
        f"{everyone[least].host}"
    )


def _facts(world: World, configuration: str, data: str) -> _Facts:
    return _Facts(
        socket.gethostname(),
        torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU",
        _free_memory(world.device),
        f"{version_of('tubelet')} {git_revision() or ''}".strip(),
        torch.__version__,
        _digest(configuration),
        _digest(data),
    )


def _add_up(world: World) -> None:
    if not dist.is_initialized():
        return
    number = torch.tensor([float(world.rank)], device=world.device)
    dist.all_reduce(number)
    if number.item() != world.size * (world.size - 1) / 2:
        raise RunError(f"rank {world.rank} on {socket.gethostname()}: an all-reduce came out wrong ({number.item():g})")


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
