"""Commands of ours in processes of their own that import nothing: each is forked from one that has imported it all.

Arguments, environment, output, signals, session and exit code are those of a `tubelet ...` started by a shell; the
seconds that every start takes to import torch and DeepSpeed are not. The programs as they are installed, and launchers,
are started by the fixture `start` of conftest.py.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

IMPORTED = ("matplotlib.backends.backend_agg", "pandas", "torch._dynamo", "torch.utils.flop_counter")
IMPORTED += ("torch.utils.tensorboard", "tubelet.launch.main", "tubelet.pipeline.embedding.embed")
IMPORTED += ("tubelet.pipeline.evaluation.evaluate", "tubelet.pipeline.training.train", "tyro")


class Forked:
    """What tests use of subprocess.Popen."""

    def __init__(self, line: socket.socket):
        self.line = line
        self.pid = int(line.recv(20))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.line.settimeout(timeout)
            try:
                self.returncode = int(self.line.recv(20))
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired("tubelet", timeout or 0) from None
            self.line.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Forks:
    """The process that commands are forked from, which ends with the tests."""

    def __init__(self, env: dict[str, str]):
        self.orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [sys.executable, __file__, str(theirs.fileno())]
            self.process = subprocess.Popen(words, pass_fds=[theirs.fileno()], env=env)

    def start(self, words: list[str], cwd: Path, log: Path, env: dict[str, str]) -> Forked:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            order = json.dumps([words, str(cwd), str(log), env]).encode()
            socket.send_fds(self.orders, [order], [theirs.fileno()])
        return Forked(ours)

    def close(self) -> None:
        self.orders.close()
        self.process.wait()


def serve(orders: socket.socket) -> list[str]:
    """Forks a command for each order, and returns only in these, with the words of their command line."""
    keepers: list[int] = []
    while True:
        order, fds, *_ = socket.recv_fds(orders, 2**20, 1)
        if not order:
            for keeper in keepers:
                os.waitpid(keeper, 0)
            os._exit(0)
        with socket.socket(fileno=fds[0]) as line:
            if keeper := os.fork():
                keepers = [keeper, *(each for each in keepers if os.waitpid(each, os.WNOHANG) == (0, 0))]
                continue
            orders.close()
            if pid := os.fork():
                line.send(str(pid).encode())
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                line.send(str(code).encode())
                os._exit(0)
        words, cwd, log, env = json.loads(order)
        os.setsid()
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        with open(log, "wb") as file, open(os.devnull, "rb") as nothing:
            for handle, number in ((nothing, 0), (file, 1), (file, 2)):
                os.dup2(handle.fileno(), number)
        return words


def main() -> None:
    from tubelet.pipeline.training.deepspeed_file import import_deepspeed

    for name in IMPORTED:
        importlib.import_module(name)
    import_deepspeed()
    gc.freeze()  # else the end of each command goes through all that is imported
    sys.argv = serve(socket.socket(fileno=int(sys.argv[1])))
    # The main module as multiprocessing tells it to the processes that a command starts.
    sys.modules["__main__"] = sys.modules["tubelet.launch.main"]
    sys.modules["__main__"].main()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
