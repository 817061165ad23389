"""Work in processes of their own: under deadlines, in parts over ranks, each result kept as soon as it is there."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as DeadlineError
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from tubelet.video import VideoError

from .journal import Journal
from .ranks import Ranks

Piece = TypeVar("Piece")


@dataclass(frozen=True)
class Task(Generic[Piece]):
    """What is done to each of many pieces of work.

    name: of the task, in progress bars, "checking". run: what is done to a piece, in another process; gives JSON.
    failed: what stands for the result where that raises, hangs or crashes, or raises what must end the command. videos:
    how many a piece is. deadline: seconds it may take, None for as long as it likes.
    """

    name: str
    run: Callable[[Piece], Any]
    failed: Callable[[Piece, Exception], Any]
    videos: Callable[[Piece], int] = lambda piece: 1
    deadline: Callable[[Piece], float | None] = lambda piece: None


@dataclass(frozen=True)
class Crew:
    """Who does it: `workers` processes of each of the `ranks`. folder: where the journals of what is done are."""

    ranks: Ranks
    workers: int
    folder: Path

    def journal(self, name: str) -> Journal:
        return Journal(self.folder, name, self.ranks.rank)


def do_all(task: Task[Piece], pieces: Sequence[Piece], crew: Crew) -> Iterator[tuple[Piece, Any]]:
    """Each piece with its result, in the order in which they were done, once all ranks have done theirs: every size-th,
    from their own number on. What an earlier run has done is not done again, whichever rank did it."""
    journal, ranks = crew.journal(task.name), crew.ranks
    done = {number for number, _ in journal.read()}
    mine = range(ranks.rank, len(pieces), ranks.size)
    todo = [number for number in mine if number not in done]
    whose = f" (part {ranks.rank + 1} of {ranks.size})" if ranks.size > 1 else ""
    bar = tqdm(
        desc=task.name + whose,
        total=sum(task.videos(pieces[number]) for number in mine),
        initial=sum(task.videos(pieces[number]) for number in mine if number in done),
        unit=" videos",
        disable=None if ranks.rank == 0 else True,  # None: where there is no terminal
    )
    with bar, journal:
        if todo:
            with process_pool(min(crew.workers, len(todo))) as pool:
                for number, result in results(pool, 2 * crew.workers, task, pieces, todo):
                    journal.add(number, result)
                    bar.update(task.videos(pieces[number]))
    ranks.gather(task.name)
    for number, result in journal.read():
        yield pieces[number], result


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPool]:
    """A pool that is worked off when the block ends, and stopped at once when it raises."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    # Decoders leak a little on damaged files (see video/): a worker is replaced after 2,000 videos.
    pool = ProcessPool(workers, max_tasks=2000, initializer=_begin_worker, initargs=[os.getpid()], context=context)
    try:
        yield pool
        pool.close()
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.join()


def _begin_worker(parent: int) -> None:
    torch.set_num_threads(1)  # a process a core; and OpenMP's threads do not survive a fork
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would go on with its piece, and one that hangs for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def results(
    pool: ProcessPool, at_once: int, task: Task[Piece], pieces: Sequence[Piece], todo: Iterable[int]
) -> Iterator[tuple[int, Any]]:
    """(number, result) of the pieces of those numbers, as they come. A million futures would not fit, so only some are
    handed in at once."""
    waiting = iter(todo)
    running: dict[Future, int] = {}
    while True:
        for number in islice(waiting, at_once - len(running)):
            piece = pieces[number]
            running[pool.schedule(task.run, args=[piece], timeout=task.deadline(piece))] = number
        if not running:
            return
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            number = running.pop(future)
            try:
                result = future.result()
            except Exception as error:
                result = task.failed(pieces[number], error)
            yield number, result


def cause_of(error: Exception, doing: str, deadline: float) -> str:
    """Why a piece of work has no result, in words for its user."""
    if isinstance(error, VideoError):
        return error.cause
    if isinstance(error, DeadlineError):
        return f"not {doing} within {deadline:g} s: the decoder hangs or the disk is very slow"
    if isinstance(error, ProcessExpired):
        return f"the decoder crashed (exit code {error.exitcode})"
    return f"{type(error).__name__}: {error}"
