"""What many tests share: a few real encoded videos, a dataset made of them, and the commands as a user starts them."""

from __future__ import annotations

import os

# A test a core (pytest-xdist), and the commands that tests start: more threads would only wait for each other. Before
# torch is imported, which reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import socket
import subprocess
import sys
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch

from tubelet.backbones import create_model, save_model
from tubelet.datasets import DemoConfig, PrepareConfig, ShardedSplit, checksum, make_demo, prepare
from tubelet.pipeline.checkpoints.state import STATE_FILE, WEIGHTS_FILE, Clip, State
from tubelet.pipeline.cluster.distributed import _ALONE
from tubelet.pipeline.files import write_json

sys.path.append(str(Path(__file__).parent))
from forking import Forked, Forks

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Random tensors are a test's own, whichever tests ran before it in this process: one that fails fails again when
    it is run alone, and none fails once in a hundred runs. `TUBELET_SEED` draws others."""
    torch.manual_seed(zlib.crc32(f"{item.nodeid} {os.environ.get('TUBELET_SEED', 0)}".encode()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take minutes come first: left for the end, one worker would have them when the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four classes with six videos each, in three codecs."""
    return make_demo(DemoConfig(out=tmp_path_factory.mktemp("videos") / "classes", videos=24, pairs=2, seed=7))


@pytest.fixture(scope="session")
def dataset(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as shards, small enough that there are several of them."""
    out = tmp_path_factory.mktemp("dataset") / "shards"
    prepare(PrepareConfig(out=out, videos=videos, shard_mb=0.2, split="0.34"))
    return out


@pytest.fixture(scope="session")
def checkpoint(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as training leaves it, of a model with random weights."""
    folder = tmp_path_factory.mktemp("untrained") / "step-00000001"
    classes = ShardedSplit(dataset, "train").classes
    torch.manual_seed(1)
    model = create_model("c3d_tiny", num_classes=len(classes), frames=8, size=32)
    save_model(model, folder)
    files = {WEIGHTS_FILE: checksum(folder / WEIGHTS_FILE)}
    write_json(folder / STATE_FILE, asdict(State(1, 1, 0, model.config, classes, Clip(8, 1, 32, "dense"), files=files)))
    return folder


@dataclass(frozen=True)
class Finished:
    code: int
    out: str


@dataclass(frozen=True)
class Started:
    """A command in a session of its own, so that all it has started can be ended with it."""

    process: subprocess.Popen | Forked
    log: Path

    def wait(self, timeout: float = 240) -> Finished:
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"not finished after {timeout} s:\n{self.log.read_text()[-3000:]}")
        return Finished(code, self.log.read_text())

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def environment(**more: str) -> dict[str, str]:
    """Of commands. Launchers start `python` by its path or by name: both must be this environment's. A place among
    processes, which a test that trains in its own process has left behind, is not theirs."""
    path = os.pathsep.join([str(SCRIPTS), os.environ["PATH"]])
    ours = {name: value for name, value in os.environ.items() if name not in _ALONE}
    return {**ours, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


@pytest.fixture(scope="session")
def forks():
    server = Forks(environment())
    yield server
    server.close()


@pytest.fixture
def start(tmp_path: Path):
    """Starts a command from the repository's root: start("tubelet", "train", ...) or start("deepspeed", ...)."""
    started: list[Started] = []

    def run(*words: object, cwd: Path = ROOT, **env: str) -> Started:
        command, log = [str(SCRIPTS / str(words[0])), *map(str, words[1:])], tmp_path / f"log-{len(started)}.txt"
        with log.open("w") as handle:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                stdout=handle,
                stderr=subprocess.STDOUT,
                env=environment(**env),
                start_new_session=True,
            )
        started.append(Started(process, log))
        return started[-1]

    yield run
    end(started)


@pytest.fixture
def fork(tmp_path: Path, forks: Forks):
    """Starts a command of ours without its imports: fork("train", ...); as one of several ranks with RANK and so on."""
    started: list[Started] = []

    def run(*words: object, cwd: Path = ROOT, **env: str) -> Started:
        log = tmp_path / f"fork-{len(started)}.txt"
        process = forks.start(["tubelet", *map(str, words)], cwd, log, environment(**env))
        started.append(Started(process, log))
        return started[-1]

    yield run
    end(started)


def end(started: list[Started]) -> None:
    for one in started:
        if one.process.poll() is None:
            one.kill()


@pytest.fixture
def tubelet(fork):
    """Runs a command of ours to its end: tubelet("prepare", "--videos", ...)."""

    def run(*words: object, **env: str) -> Finished:
        return fork(*words, **env).wait()

    return run


@pytest.fixture
def ranks(fork):
    """Starts a command in two processes as a launcher would, by rank: ranks(port, "train", ...)."""

    def run(port: int, *words: object) -> list[Started]:
        place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return [fork(*words, **place, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]

    return run


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
