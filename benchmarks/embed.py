"""Embedding of a long video: the whole command's work beside its two halves, decoding alone and the network alone.

    python benchmarks/embed.py                       # on half a generated hour; minutes on two cores
    python benchmarks/embed.py --video film.mp4 --model i3d_r50_tiny --every 16

Prints a Markdown table: seconds until the first clip comes, in which a worker starts and reads through the packets of
the file while the network waits, so that of a video of a minute they are most of what is lost; clips a second of
decoding alone (one worker process, nothing done with its clips), of the network alone (the same batches from memory),
and of both as `tubelet embed` does them, with its files; then the whole over the slower half: 1 is perfect overlap. The
three are measured in turn, `--rounds` times: medians, and the quartiles of the ratio of each round.

Two idle cores are needed for two halves that run at the same time: `kept waiting` is the share of the whole in which
its main process could have run and had no core. CPU: of the whole's main process over that of the network alone, which
is what taking clips and storing vectors cost beside the network. Weights are random.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tubelet.backbones import Model, create_model
from tubelet.datasets import StreamedClip, StreamSettings, Videos, open_videos, start_forkserver, streamed
from tubelet.pipeline.cluster.distributed import World
from tubelet.pipeline.embedding.embed import EmbedConfig, Run
from tubelet.pipeline.embedding.network import Vectors
from tubelet.pipeline.embedding.parts import PartWriter, schema_of
from tubelet.pipeline.inputs.clips import ClipInput
from tubelet.video import Windows, encode_video

BATCH, WORKERS = 16, 1
CPU = torch.device("cpu")


def generated(path: Path, seconds: int) -> Path:
    """A drifting texture of 320 x 240 at 25 frames a second, in long groups of pictures."""
    texture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    count = 25 * seconds
    band = np.tile(texture, (1, 1 + -(-3 * count // 320), 1))
    frames = np.lib.stride_tricks.sliding_window_view(band, 320, 1)[:, : 3 * count : 3]  # views: hours fit
    encode_video(path, frames.transpose(1, 0, 3, 2), 25, options={"g": "250", "bf": "3"})
    return path


def decoding(videos: Videos, settings: StreamSettings) -> int:
    events = streamed(videos, settings, iter([(0, range(len(videos)))]), WORKERS, 2 * BATCH)
    return sum(isinstance(event, StreamedClip) for event in events)


def seconds_to_first_clip(videos: Videos, settings: StreamSettings) -> float:
    begun = time.perf_counter()
    next(streamed(videos, settings, iter([(0, range(len(videos)))]), WORKERS, 2 * BATCH))
    return time.perf_counter() - begun


def network(vectors: Vectors, inputs: ClipInput, settings: StreamSettings, clips: int) -> int:
    batch = torch.randint(0, 256, (BATCH, *settings.shape), dtype=torch.uint8)
    with torch.inference_mode():
        for start in range(0, clips, BATCH):
            vectors(inputs.views(batch[: min(BATCH, clips - start)])).cpu()
    return clips


class Rate(NamedTuple):
    """Clips a second; CPU seconds of this process a clip; share of the time that it was kept waiting for a core."""

    speed: float
    cpu: float
    waited: float


def rate(work: Callable[[], int]) -> Rate:
    begun, busy, delayed = time.perf_counter(), time.process_time(), _delayed()
    clips = work()
    seconds = time.perf_counter() - begun
    return Rate(clips / seconds, (time.process_time() - busy) / clips, (_delayed() - delayed) / seconds)


def _delayed() -> float:
    """Seconds that the main thread has been ready to run, and has not."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def measured(model: Model, videos: Videos, every: int, rounds: int, out: Path) -> tuple[float, list[list[Rate]]]:
    """Seconds to the first clip, and the rates of decoding, of the network and of both, of each round."""
    windows = Windows(model.clip.frames, length=model.clip.frames * model.clip.stride, every=every)
    settings = StreamSettings(windows, model.clip.size)
    config = EmbedConfig(out=out, every_frames=every, batch_size=BATCH, workers=WORKERS)
    inputs, vectors = ClipInput(model.clip, CPU, "fp32"), Vectors(model)
    schema = schema_of(vectors.features, "fp16", False, {})
    clips = decoding(videos, settings)  # warms the file and the processes, too
    network(vectors, inputs, settings, 4 * BATCH)

    def embedding() -> int:
        run = Run(config, vectors, inputs, videos, settings, lambda part: PartWriter(out, part, videos, schema))
        return run.embed([(0, range(len(videos)))], World(0, 1, 1, CPU))[0]

    works: tuple[Callable[[], int], ...] = (
        lambda: decoding(videos, settings),
        lambda: network(vectors, inputs, settings, clips),
        embedding,
    )
    return seconds_to_first_clip(videos, settings), [[rate(work) for work in works] for _ in range(rounds)]


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="file of your own (default: a generated one)")
    parser.add_argument("--seconds", type=int, default=1800, help="of the generated video")
    parser.add_argument("--model", default="timesformer_tiny")
    parser.add_argument("--every", type=int, nargs="+", default=[4, 16], help="frames from clip to clip, a row each")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds: quartiles need 2 or more")
    start_forkserver()
    torch.set_num_threads(1)
    model = create_model(arguments.model).eval()
    print("| model, a clip every | first clip | decoding | network | both | over the slower | kept waiting | CPU |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        videos = open_videos(arguments.video or generated(Path(folder, "video.mp4"), arguments.seconds))
        for every in arguments.every:
            first, rounds = measured(model, videos, every, arguments.rounds, Path(folder))
            speeds = [statistics.median(each.speed for each in column) for column in zip(*rounds, strict=True)]
            overlap = quartiles([both.speed / min(decode.speed, net.speed) for decode, net, both in rounds])
            waited = statistics.median(both.waited for _, _, both in rounds)
            cpu = quartiles([both.cpu / net.cpu for _, net, both in rounds])
            told = " | ".join(f"{speed:.0f}" for speed in speeds)
            row = f"{first:.1f} s | {told} | {overlap} | {waited:.0%} | {cpu}"
            print(f"| {arguments.model}, {every} frames | {row} |", flush=True)


if __name__ == "__main__":
    main()
