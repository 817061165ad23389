"""What a process that streams videos does, see streams.py: each is decoded once, from its first wanted frame to its
last, however its clips overlap, and no more frames are held than a clip spans."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch

from tubelet.video import VideoError, VideoReader, Windows, available_backends, spatial_boxes

from ..errors import DataError
from ..videos import Videos
from .shared import SharedMemory


@dataclass(frozen=True)
class StreamSettings:
    """windows: which clips; size: pixels of their square; decoder: which library; deadline: seconds a worker has from
    one clip to the next."""

    windows: Windows
    size: int
    decoder: str = "pyav"
    deadline: float = 30.0

    def __post_init__(self) -> None:
        if self.decoder != "pyav" and available_backends().get(self.decoder) is None:
            raise DataError(f"--decoder {self.decoder}: is not installed; `tubelet doctor` says how to get it")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.windows.frames, self.size, self.size, 3


Clip = tuple[float, float, float, list[np.ndarray]]  # start and end in seconds, share of the video done, frames


def clips_of(reader: VideoReader, first: int, after: int, settings: StreamSettings) -> Iterator[Clip]:
    """(start, end, share done, frames) of each clip of the frames first <= i < after, from one pass over them."""
    all_times = reader.times()
    times = all_times[first:after]
    if not len(times):
        raise VideoError("", f"no frame lies between start and end: the file is {reader.info.duration:.2f} s long")
    clips = settings.windows.clips(times) + first
    wanted = np.unique(clips)
    box = spatial_boxes(reader.info.height, reader.info.width, 1)[0]
    decoded = zip(wanted.tolist(), reader.stream(wanted, box, settings.size), strict=True)
    held: dict[int, np.ndarray] = {}
    for clip in clips.tolist():
        for index in [index for index in held if index < clip[0]]:
            del held[index]
        while clip[-1] not in held:
            index, frame = next(decoded)
            held[index] = frame
        done = (clip[-1] + 1 - first) / (after - first)
        end = float(all_times[clip[-1]]) + 1 / reader.info.rate
        yield float(all_times[clip[0]]), end, done, [held[index] for index in clip]


def clips_of_video(
    videos: Videos, number: int, settings: StreamSettings, fetched: Callable[[], None]
) -> Iterator[Clip]:
    """The same of a video by its number. `fetched` is called when it is on this machine."""
    videos.fetch(number)
    fetched()
    reader, first, after = videos.open(number, settings.decoder)
    with reader:
        yield from clips_of(reader, first, after, settings)


def cause_of(error: Exception) -> str:
    return error.cause if isinstance(error, VideoError) else f"{type(error).__name__}: {error}"


def work(
    connection: Connection, life: Connection, videos: Videos, settings: StreamSettings, memory: SharedMemory
) -> None:
    """Messages to the main process: None (fetched), (slot, start, end, share done) of a clip, a text at the end of a
    video, empty where all is well, or a DataError. From it: lists of videos, and the numbers of slots that are free."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the main process's, which ends this one
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=[life], daemon=True).start()
    free = deque(range(len(memory.array)))
    try:
        while True:
            message = connection.recv()
            if isinstance(message, int):
                free.append(message)
                continue
            for number in message:
                connection.send(_stream(connection, videos, number, settings, memory.array, free))
    except (EOFError, OSError):
        return


def _stream(
    connection: Connection,
    videos: Videos,
    number: int,
    settings: StreamSettings,
    slots: np.ndarray,
    free: deque[int],
) -> str | DataError:
    clips = clips_of_video(videos, number, settings, lambda: connection.send(None))
    while True:
        try:
            clip = next(clips, None)
        except DataError as error:
            return error
        except Exception as error:  # a fault of this video, whatever it is
            return cause_of(error)
        if clip is None:
            return ""
        start, end, done, frames = clip
        if not free:
            free.append(connection.recv())
        slot = free.popleft()
        np.stack(frames, out=slots[slot])
        connection.send((slot, start, end, done))


def _end_with(life: Connection) -> None:
    """Even a decoder that spins ends with the process it works for."""
    try:
        life.recv()
    finally:
        os._exit(1)
