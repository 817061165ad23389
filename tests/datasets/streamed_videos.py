"""Videos that hang or crash their process, in a module that worker processes can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tubelet.datasets.manifest import Video
from tubelet.datasets.videos import FileVideos
from tubelet.video import VideoReader


class FaultyVideos(FileVideos):
    """Files, of which `how` says by number what is wrong with them."""

    def __init__(self, files: list[Path], how: dict[int, str]):
        super().__init__([Video(file.stem, file) for file in files])
        self.how = how

    def open(self, number: int, decoder: str) -> tuple[VideoReader, int, int]:
        if self.how.get(number) == "hangs":
            time.sleep(600)
        if self.how.get(number) == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().open(number, decoder)
