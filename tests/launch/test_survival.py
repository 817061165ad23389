"""What dies and how: signals, stuck and dead ranks, kills at any moment, other numbers of processes, two machines."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tubelet.pipeline.checkpoints.finding import named
from tubelet.pipeline.checkpoints.state import TRAINING_FILE, read_state

PATIENCE = 240  # seconds, on a machine that may have other work

FORM = ("--model", "timesformer_tiny", "--epochs", 3, "--log-every", 1, "--save-steps", 1, "--workers", 1)


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert len(steps) == len(set(steps)), "a step stands twice in the log"
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def training(dataset: Path, out: Path) -> tuple[object, ...]:
    return ("train", *FORM, "--batch-size", 2, "--data", dataset, "--out", out)


def ranks_of(run: Path) -> list[int]:
    """The training processes of a run, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = dict(
                word.split(b"=", 1) for word in (folder / "environ").read_bytes().split(b"\0") if b"=" in word
            )
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        mine = str(run).encode() in words and b"RANK" in variables and words[1:2] == [b"-u"]
        if mine and b"launch.py" not in Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")[0]:
            found[int(variables[b"RANK"])] = int(folder.name)
    return [found[rank] for rank in sorted(found)]


def wait_for_step(run: Path, step: int, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (run / "log.jsonl").exists() and (run / "log.jsonl").read_text().count('"train"') >= step:
            return
        time.sleep(0.05)
    pytest.fail(f"no step {step} in {seconds} s")


@pytest.mark.slow
def test_asked_to_end_it_saves_and_goes_on_with_one_process(
    start, fork, ranks, dataset: Path, tmp_path: Path, free_port: int
) -> None:
    """SIGTERM at one of two ranks; the rest of the run in one process at another ZeRO stage, then in two again."""
    run = tmp_path / "run"
    _, *words = training(dataset, run)
    launcher = ("deepspeed", "--num_accelerators", 2, "--master_port", free_port, "launch/train.py")
    started = start(*launcher, *words, "--zero-stage", 2, "--save-steps", 0, "--save-every", 3)
    wait_for_step(run, 2)
    os.kill(ranks_of(run)[1], signal.SIGTERM)
    ended = started.wait()
    assert "asked to end, the run has saved step" in ended.out, ended.out[-2000:]
    assert ended.code == 75
    first = read_state(named(run / "checkpoints", "latest"))
    assert first.step == max(losses(run))
    again = fork(*training(dataset, run), "--zero-stage", 0, "--resume", "auto")
    wait_for_step(run, first.step + 2)
    again.process.send_signal(signal.SIGUSR1)
    ended = again.wait()
    assert ended.code == 75, ended.out[-2000:]
    second = read_state(named(run / "checkpoints", "latest"))
    for rank in ranks(free_port, *training(dataset, run), "--zero-stage", 1, "--resume", "auto"):
        ended = rank.wait()
        assert ended.code == 0, ended.out[-2000:]
    # 16 videos, 4 or 2 a step: every sample of an epoch once, whoever took it.
    assert first.consumed == 4 * first.step % 16
    between = 2 * (second.step - first.step)
    assert (second.epoch * 16 + second.consumed) - (first.epoch * 16 + first.consumed) == between
    last = read_state(named(run / "checkpoints", "latest"))
    assert last.epoch == 3
    assert 4 * (last.step - second.step) == 48 - (second.epoch * 16 + second.consumed) - 2 * (second.consumed % 4 == 2)


@pytest.mark.slow
def test_a_stuck_rank_does_not_hang_the_other(ranks, dataset: Path, tmp_path: Path, free_port: int) -> None:
    run = tmp_path / "run"
    first, stuck = ranks(free_port, *training(dataset, run), "--timeout", 8, "--epochs", 500)
    wait_for_step(run, 2)
    stuck.process.send_signal(signal.SIGSTOP)
    ended = first.wait()
    assert ended.code not in (0, None)
    assert "error: rank 0 on" in ended.out, ended.out[-2000:]
    assert "has waited too long in" in ended.out, ended.out[-2000:]
    assert "train.py" in (run / "stuck-rank-0.txt").read_text()


@pytest.mark.slow
def test_a_dead_rank_ends_the_other_with_a_word(ranks, dataset: Path, tmp_path: Path, free_port: int) -> None:
    run = tmp_path / "run"
    dead, other = ranks(free_port, *training(dataset, run), "--epochs", 500)
    wait_for_step(run, 2)
    dead.kill()
    ended = other.wait()
    assert ended.code not in (0, None)
    assert "rank 1" in ended.out, ended.out[-3000:]
    assert "has lost another process" in ended.out, ended.out[-3000:]
    assert "Traceback" not in ended.out, ended.out[-3000:]


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_model(fork, dataset: Path, tmp_path: Path) -> None:
    """SIGKILL in steps, saves and evaluations, as often as TUBELET_KILLS says: run after run, each to its end."""
    words = ("train", *FORM, "--batch-size", 4, "--data", dataset, "--resume", "auto", "--ema", 0.9)
    whole = tmp_path / "whole"
    assert fork(*words, "--out", whole).wait().code == 0
    chance, kills, runs = random.Random(0), int(os.environ.get("TUBELET_KILLS", "3")), 0
    while kills:
        run, runs = tmp_path / f"killed-{runs}", runs + 1
        while kills and killed_after_a_step(fork(*words, "--out", run), run / "log.jsonl", chance.uniform(0, 0.8)):
            kills -= 1
        ended = fork(*words, "--out", run).wait()
        assert ended.code == 0, ended.out[-2000:]
        assert losses(run) == losses(whole)
        one, other = (load_file(named(each / "checkpoints", "latest") / TRAINING_FILE) for each in (run, whole))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert not list((run / "checkpoints").glob("unfinished-*"))


def killed_after_a_step(started, log: Path, seconds: float) -> bool:
    """SIGKILL so long after the first step that it has logged; False where it came to its end before."""
    before, until = log.stat().st_size if log.exists() else 0, time.monotonic() + PATIENCE
    while started.process.poll() is None and not (log.exists() and log.stat().st_size > before):
        assert time.monotonic() < until, started.log.read_text()[-2000:]
        time.sleep(0.01)
    time.sleep(seconds)
    if started.process.poll() is not None:
        return False
    started.kill()
    return True


@pytest.fixture
def machines(tmp_path: Path):
    """Two network namespaces that see each other as machines a and b, or a skip that says why there are none."""
    a, b = f"tla{os.getpid()}", f"tlb{os.getpid()}"
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("two machines are network namespaces, which need iproute2 and root")
    lines = [
        f"netns add {a}", f"netns add {b}", f"link add {a} type veth peer name {b}",
        f"link set {a} netns {a} name eth0", f"link set {b} netns {b} name eth0",
    ]  # fmt: skip
    for node, address in ((a, "10.77.0.1/24"), (b, "10.77.0.2/24")):
        lines += [f"-n {node} addr add {address} dev eth0", f"-n {node} link set eth0 up", f"-n {node} link set lo up"]
    for node in (a, b):
        hosts = Path("/etc/netns") / node / "hosts"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        hosts.write_text(f"127.0.0.1 localhost\n10.77.0.1 {a}\n10.77.0.2 {b}\n")
    try:
        for line in lines:
            done = subprocess.run(["ip", *line.split()], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no network namespaces here: ip {line}: {done.stderr.strip()}")
        yield a, b
    finally:
        for node in (a, b):
            subprocess.run(["ip", "netns", "delete", node], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / node, ignore_errors=True)


@pytest.mark.slow
def test_two_machines(start, ranks, dataset: Path, tmp_path: Path, free_port: int, machines: tuple[str, str]) -> None:
    """The losses of two processes on one machine; a cut link ends both; starting again goes on."""
    run, hosts = tmp_path / "run", tmp_path / "hosts"
    hosts.write_text("".join(f"{node} slots=1\n" for node in machines))

    def both(*more: object) -> list:
        started = []
        for rank, node in enumerate(machines):
            words = ["deepspeed", "--hostfile", hosts, "--no_ssh", "--node_rank", rank, "--master_addr", "10.77.0.1"]
            words += ["--master_port", free_port, "launch/train.py", *FORM, "--batch-size", 2, "--data", dataset]
            entered = [shutil.which("ip"), "netns", "exec", node, sys.executable, "-m", "deepspeed.launcher.runner"]
            variables = {"GLOO_SOCKET_IFNAME": "eth0", "DS_ACCELERATOR": "cpu"}
            started.append(start(*entered, *words[1:], "--out", run, *more, **variables))
        return started

    started = both("--timeout", 10, "--epochs", 500, "--save-every", 500)
    wait_for_step(run, 3)
    subprocess.run(["ip", "-n", machines[1], "link", "set", "eth0", "down"], check=True)
    ended = [one.wait() for one in started]
    assert all(one.code for one in ended)
    assert any("has waited too long in" in one.out for one in ended), "\n\n".join(one.out[-3000:] for one in ended)
    cut = max(losses(run))
    subprocess.run(["ip", "-n", machines[1], "link", "set", "eth0", "up"], check=True)
    for one in both("--resume", "auto"):
        ended = one.wait()
        assert ended.code == 0, ended.out[-2000:]
    assert max(losses(run)) >= cut
    beside = tmp_path / "beside"
    assert [rank.wait().code for rank in ranks(free_port, *training(dataset, beside))] == [0, 0]
    common = losses(run).keys() & losses(beside).keys()
    assert {1, 2, 3} <= common
    first = [step for step in common if step <= 3]
    assert [losses(run)[step] for step in first] == [losses(beside)[step] for step in first]
