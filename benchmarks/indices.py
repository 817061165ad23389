"""What it costs to open a split of millions of videos, and to find one of them.

    python benchmarks/indices.py --shards 5000 --videos 2000

Makes one shard of small videos, copies its index for as many shards as asked for, opens the split in a process of its
own and prints seconds, the memory that is the process's own (anonymous pages; the mapped indices are the page cache's)
and microseconds of CPU time to find a random video: its key, its frames, its place and its scan.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

from tubelet.datasets import Card, ShardedSplit
from tubelet.datasets.shards.card import Shard, Split, write_card
from tubelet.datasets.shards.index import index_path, write_index
from tubelet.video import encode_video

CLASSES = 400
FOUND = 20_000


def make(folder: Path, shards: int, videos: int) -> None:
    clip = folder / "clip.mp4"
    encode_video(clip, np.random.default_rng(0).integers(0, 255, (300, 32, 32, 3), np.uint8), 30, "libx264", {})
    first = folder / "train-000000.tar"
    with tarfile.open(first, "w") as tar:
        for number in range(videos):
            for name, data in (
                (f"{number:08d}.mp4", clip.read_bytes()),
                (f"{number:08d}.cls", b"%d" % (number % CLASSES)),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    index = write_index(first)
    files = [f"train-{number:06d}.tar" for number in range(shards)]
    for file in files[1:]:
        os.link(first, folder / file)
        shutil.copy(index_path(first), index_path(folder / file))
    os.sync()
    split = Split(
        shards * videos, shards * videos, {}, [Shard(file, videos, index.bytes, index.sha256) for file in files]
    )
    write_card(Card("indices", [str(number) for number in range(CLASSES)], False, {"train": split}), folder)
    size = sum(index_path(folder / file).stat().st_size for file in files)
    print(f"{shards} shards of {videos} videos of 300 frames: {size / 1e9:.2f} GB of indices")


def own_memory() -> int:
    """MiB of anonymous pages of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("Anonymous:"))


def measure(folder: Path) -> None:
    before, start = own_memory(), time.perf_counter()
    split = ShardedSplit(folder, "train")
    seconds = time.perf_counter() - start
    print(f"{len(split):,} videos: opened in {seconds:.2f} s, {own_memory() - before} MiB of its own")
    numbers = np.random.default_rng(0).integers(len(split), size=FOUND)
    start = time.process_time()
    for number in numbers:
        split.key(number), split.frame_range(number), split.span(number), split.scan(number)
    print(f"one video found in {(time.process_time() - start) / FOUND * 1e6:.0f} us of CPU time")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=500)
    parser.add_argument("--videos", type=int, default=2000, help="in each of them")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        measure(arguments.folder)
    else:
        with tempfile.TemporaryDirectory() as place:
            make(Path(place), arguments.shards, arguments.videos)
            subprocess.run([sys.executable, __file__, "--folder", place], check=True)
