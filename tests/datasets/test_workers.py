"""Workers that hang, crash or are killed: every batch comes, in order and with the right clips, and nobody is left."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from tubelet.datasets import DataError

sys.path.append(str(Path(__file__).parent))  # for the worker processes, which get it from here
from faulty_jobs import PLACES, SHAPE, made, without_end


def ends(pid: int, within: float = 20) -> bool:
    """Whether a process ends; a zombie has."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def check(batches: list, how: dict[int, str], first: int = 0) -> list[tuple[str, str]]:
    """That every place of the batches, from the `first` on, holds what it is to hold; returns the faults."""
    faults = []
    for items, (clips, outcomes) in zip(islice(without_end(), first, None), batches, strict=False):
        expected = [item + 100 if item in how else item for item in items]
        assert [outcome.index for outcome in outcomes] == expected
        assert clips.shape == (PLACES, *SHAPE)
        assert torch.equal(clips, torch.tensor(expected, dtype=torch.uint8).view(-1, 1, 1).expand(PLACES, *SHAPE))
        faults += [fault for outcome in outcomes for fault in outcome.faults]
    return faults


def test_hanging_and_crashing_workers_cost_a_clip_each_and_no_batch() -> None:
    how = {4: "SIGSEGV", 5: "stands", 7: "SIGKILL", 8: "exits", 10: "is damaged", 12: "raises", 17: "spins"}
    stream = made(how, 2, deadline=2)
    faults = check(list(islice(stream, 10)), how)
    stream.close()
    late = "not decoded within 2 s: the decoder hangs or the disk is very slow"
    assert dict(faults) == {
        "4": "the decoder crashed (SIGSEGV)",
        "5": late,
        "7": "the decoder crashed (SIGKILL: out of memory?)",
        "8": "the decoder crashed (exit code 3)",
        "10": "is damaged",
        "12": "ZeroDivisionError: a defect",
        "17": late,
    }
    assert len(faults) == len(how)


def test_what_has_to_be_fetched_first_is_not_late() -> None:
    stream = made({4: "is far away"}, 1, deadline=1)
    assert check(list(islice(stream, 3)), {}) == []
    stream.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_cannot_be_had_is_no_fault_of_a_video(workers: int) -> None:
    stream = made({4: "is gone"}, workers)
    with pytest.raises(DataError, match="the network is down"):
        list(islice(stream, 5))
    stream.close()


def test_a_worker_that_is_killed_while_idle_is_replaced() -> None:
    stream = made({}, 1)
    pid = next(stream)[1][0].made
    time.sleep(0.2)  # it fills every batch that there is room for, and waits
    os.kill(pid, signal.SIGKILL)
    assert ends(pid)
    rest = list(islice(stream, 12))
    assert rest[-1][1][0].made != pid
    assert not any(outcome.faults for _, outcomes in rest for outcome in outcomes)
    stream.close()


def test_batches_that_are_kept_stay_as_they_are() -> None:
    stream = made({}, 2)
    kept = list(islice(stream, 25))  # many more than there is shared memory for
    assert check(kept, {}) == []
    del kept
    held = next(stream)[0]
    view = held[1, :, 2:]
    value, address = int(held[1, 0, 0]), held.data_ptr()
    del held
    addresses = set()
    for clips, _ in islice(stream, 30):
        addresses.add(clips.data_ptr())
    assert (view == value).all()
    assert address not in addresses
    del view, clips
    gc.collect()
    assert address in {next(stream)[0].data_ptr() for _ in range(30)}, "what nobody holds is used again"
    stream.close()


def test_workers_end_with_the_stream() -> None:
    stream = made({3: "spins"}, 2)
    pids = {outcome.made for outcome in next(stream)[1]} | {stream._process.pid}
    stream.close()
    assert all(ends(pid) for pid in pids)
    forgotten = made({}, 1)
    pid = next(forgotten)[1][0].made
    del forgotten
    assert ends(pid)


def test_nobody_is_left_when_the_main_process_is_killed() -> None:
    script = Path(__file__).parent / "faulty_jobs.py"
    main = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert main.stdout is not None
    pids = [int(word) for word in main.stdout.readline().split()]
    assert len(pids) >= 2
    main.kill()
    main.wait()
    assert all(ends(pid) for pid in pids)


def test_a_watcher_that_is_killed_ends_the_stream_with_a_word() -> None:
    stream = made({3: "spins"}, 2)
    pids = {outcome.made for outcome in next(stream)[1]}
    os.kill(stream._process.pid, signal.SIGKILL)
    with pytest.raises(DataError, match=r"has ended \(exit code -9\)"):
        list(islice(stream, 30))
    assert all(ends(pid) for pid in pids)
    stream.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_to_an_end(workers: int) -> None:
    stream = made({}, workers, batches=iter([[1, 2, 3], [4]]))
    sizes = [len(clips) for clips, _ in stream]
    assert sizes == [3, 1]
    stream.close()
