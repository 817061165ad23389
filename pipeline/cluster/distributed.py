"""The processes of a run: who am I, on which device, and how all of them end together."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ..errors import RunError, first_line

_PATIENT = 1800.0
"""Seconds that collectives may take at least: the watchdog of a run is quicker where it should be."""
# Where launchers say which process this is and how many there are: torchrun and deepspeed, Open MPI, other MPIs, srun.
_PLACES = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)
# What they say of the place on the machine, of the first process' address, and of the job.
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE")
_ADDRESSES = ("SLURM_LAUNCH_NODE_IPADDR",)  # srun starts from the batch script, on the first machine
_ALONE = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "0",
}


@dataclass(frozen=True)
class World:
    """rank of this process among `size`; local: how many processes share its cores; device it computes on."""

    rank: int
    size: int
    local: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if dist.is_initialized():
            dist.barrier()

    def gather(self, value: object) -> list:
        """`value` of every rank, in order, on every rank."""
        if not dist.is_initialized():
            return [value]
        values: list = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def default_workers(self) -> int:
        """Worker processes for decoding: this process's share of the cores it may run on, at most 8."""
        return max(1, min(8, len(os.sched_getaffinity(0)) // self.local))


def rank_and_size() -> tuple[int, int]:
    """The place that a launcher has given this process, for work that needs no process group; (0, 1) without one.

    Raises RunError when the launcher's variables make no sense.
    """
    # A batch script is one process, though Slurm sets there what it sets for the tasks of a step.
    is_batch_script = "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" not in os.environ
    for names in _PLACES[:-1] if is_batch_script else _PLACES:
        if all(name in os.environ for name in names):
            words = [os.environ[name] for name in names]
            if all(word.isdecimal() for word in words) and int(words[0]) < int(words[1]):
                return int(words[0]), int(words[1])
            raise RunError(f"{names[0]}={words[0]}, {names[1]}={words[1]}: not the place of a process among others")
    return 0, 1


def join(timeout: float, *, always: bool = False) -> World:
    """Joins the other processes of a launcher (deepspeed, torchrun, srun, mpirun), or stands alone under plain python.

    timeout: seconds after which a process that waits for the others gives up, where nothing else ends it sooner.
    always: form a process group even alone, as DeepSpeed wants it. Raises RunError when the launcher's variables make
    no sense or nobody answers.
    """
    if "RANK" not in os.environ:
        _take_place()
    elif "TORCHELASTIC_RUN_ID" in os.environ or "CROSS_RANK" in os.environ:
        _end_with_the_launcher()
    for name, value in _ALONE.items():
        os.environ.setdefault(name, value)
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or size)
    if _srun_has_bound_cores(size):
        local = 1
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise RunError(
                f"process {local_rank} of this machine has no GPU of its own: there are {torch.cuda.device_count()}. "
                "Start at most as many processes as GPUs"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        # Launchers set one thread a process; alone, a process has the machine.
        if size > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))
    if (size > 1 or always) and not dist.is_initialized():
        _form_group(device, max(timeout, _PATIENT))
    return World(rank, size, local, device)


def _take_place() -> None:
    """From srun's or mpirun's variables those that torch knows."""
    rank, size = rank_and_size()
    if size == 1:
        return
    found = {"RANK": str(rank), "WORLD_SIZE": str(size)}
    for ours, theirs in (("LOCAL_RANK", _LOCAL_RANKS), ("LOCAL_WORLD_SIZE", _LOCAL_SIZES)):
        if (name := next((name for name in theirs if name in os.environ), None)) is not None:
            found[ours] = os.environ[name]
    if "MASTER_ADDR" not in os.environ:
        address = next((os.environ[name] for name in _ADDRESSES if name in os.environ), None)
        if address is None and found.get("LOCAL_WORLD_SIZE") != str(size):
            raise RunError(
                f"{size} processes, and none knows where the first of them is: set MASTER_ADDR to its machine, and "
                "MASTER_PORT to a free port there, before the launcher"
            )
        found["MASTER_ADDR"] = address or "127.0.0.1"
    found["MASTER_PORT"] = os.environ.get("MASTER_PORT") or str(20000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 20000)
    os.environ.update(found)


def _srun_has_bound_cores(size: int) -> bool:
    """Whether srun started each of `size` processes on cores of its own, of which it counts the threads or not."""
    if "SLURM_STEP_ID" not in os.environ or os.environ.get("SLURM_NTASKS") != str(size):
        return False
    return len(os.sched_getaffinity(0)) <= 2 * int(os.environ.get("SLURM_CPUS_PER_TASK", 0))


def _end_with_the_launcher() -> None:
    """Asks the kernel for SIGTERM when the launcher dies, which by itself would leave its processes behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _form_group(device: torch.device, timeout: float) -> None:
    limit = timedelta(seconds=timeout)
    # Groups that DeepSpeed makes later take their time-out from here and from nowhere else.
    dist.distributed_c10d.default_pg_timeout = limit
    dist.distributed_c10d.default_pg_nccl_timeout = limit  # type: ignore[attr-defined]
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        if os.environ["WORLD_SIZE"] == "1" and os.environ["MASTER_PORT"] == "0":
            store = dist.HashStore()
            dist.init_process_group(_backend(device), store=store, rank=0, world_size=1, timeout=limit)
        else:
            dist.init_process_group(_backend(device), timeout=limit)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} could not meet the others at {where} "
            f"({first_line(error)}). Check that the address is reachable and the port free"
        ) from error


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


_BROKEN = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "timed out",
    "NCCL",
)


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Turns what collectives raise when another process has died into a RunError that says so."""
    try:
        yield
    except RuntimeError as error:
        if not (dist.is_initialized() and any(sign in str(error) for sign in _BROKEN)):
            raise
        raise RunError(
            f"rank {dist.get_rank()} on {socket.gethostname()} has lost another process "
            f"({first_line(error)}). "
            "The one that says something else, or nothing, is the one to look at. The same command, of training with "
            "--resume auto, goes on"
        ) from error


def leave(code: int) -> None:
    """Ends the process with `code`; does not return where a process group was formed.

    With several ranks a normal interpreter exit aborts now and then after all work is done (gloo's threads outlive
    what they use), so the process ends itself once everything is flushed.
    """
    if dist.is_initialized():
        if code == 0:
            dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
