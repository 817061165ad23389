"""Embedding of a long video: the whole command's work beside its two halves, decoding alone and the network alone.

    python benchmarks/embed.py                       # on a generated video; minutes on two cores
    python benchmarks/embed.py --video film.mp4 --model i3d_r50_tiny --every 16

Prints a Markdown table: clips a second of decoding alone (one worker process, nothing done with its clips), of the
network alone (the same batches from memory), and of both as `tubelet embed` does them, with its files; then the whole
over the slower half: 1 is perfect overlap. The three are measured in turn, `--rounds` times: medians, and the quartiles
of the ratio of each round. Two idle cores are needed for two halves that run at the same time. On a machine with other
jobs the last column tells more: the CPU time of the whole's main process over that of the network alone, which is what
taking clips and storing vectors cost beside the network. Weights are random.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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
    frames = np.stack([np.roll(texture, 3 * number, 1) for number in range(25 * seconds)])
    encode_video(path, frames, 25, options={"g": "250", "bf": "3"})
    return path


def decoding(videos: Videos, settings: StreamSettings) -> int:
    events = streamed(videos, settings, iter([(0, range(len(videos)))]), WORKERS, 2 * BATCH)
    return sum(isinstance(event, StreamedClip) for event in events)


def network(vectors: Vectors, inputs: ClipInput, settings: StreamSettings, clips: int) -> int:
    batch = torch.randint(0, 256, (BATCH, *settings.shape), dtype=torch.uint8)
    with torch.inference_mode():
        for start in range(0, clips, BATCH):
            vectors(inputs.views(batch[: min(BATCH, clips - start)])).cpu()
    return clips


def rate(work: Callable[[], int]) -> tuple[float, float]:
    """Clips a second, and seconds of this process's CPU time a clip."""
    begun, busy = time.perf_counter(), time.process_time()
    clips = work()
    return clips / (time.perf_counter() - begun), (time.process_time() - busy) / clips


def measured(model: Model, videos: Videos, every: int, rounds: int, out: Path) -> list[list[tuple[float, float]]]:
    """What `rate` gives of decoding, of the network and of both, of each round."""
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
    return [[rate(work) for work in works] for _ in range(rounds)]


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="file of your own (default: a generated one)")
    parser.add_argument("--seconds", type=int, default=180, help="of the generated video")
    parser.add_argument("--model", default="timesformer_tiny")
    parser.add_argument("--every", type=int, nargs="+", default=[4, 16], help="frames from clip to clip, a row each")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    start_forkserver()
    torch.set_num_threads(1)
    model = create_model(arguments.model).eval()
    print("| model, a clip every | decoding | network | both | over the slower | CPU of the main process |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        videos = open_videos(arguments.video or generated(Path(folder, "video.mp4"), arguments.seconds))
        for every in arguments.every:
            rounds = measured(model, videos, every, arguments.rounds, Path(folder))
            speeds = [statistics.median(speed for speed, _ in column) for column in zip(*rounds, strict=True)]
            overlap = quartiles([b / min(d, c) for (d, _), (c, _), (b, _) in rounds])
            main_cpu = quartiles([whole / alone for _, (_, alone), (_, whole) in rounds])
            told = " | ".join(f"{speed:.0f}" for speed in speeds)
            print(f"| {arguments.model}, {every} frames | {told} | {overlap} | {main_cpu} |", flush=True)


if __name__ == "__main__":
    main()
