"""Loading of video: a clip beside torchcodec, decord and plain PyAV, test views, the whole loader, and orders.

    python benchmarks/loading.py                                     # on generated videos; ten minutes on two cores
    python benchmarks/loading.py --kinetics a.mp4 b.mp4 --ssv2 c.webm   # on files of your own
    python benchmarks/loading.py --parts clips                       # only the first table

Prints Markdown tables. A clip is 16 frames, cropped and scaled to 224 pixels, uint8. Each row alternates all ways over
the same random clips, `--rounds` times, on one thread, bytes in memory: CPU time, the median; the peer's over ours with
its quartiles (above 1: ours is faster). Ours reads with the scan that an index keeps, and writes
into a batch, as the loader does; the peers open the video, seek and decode, and torch's uint8 kernel crops and scales.
`limit` is FFmpeg's decoder alone, given the fewest packets that hold the clip and nothing else to do, over ours: 1 is
the end. Before it is measured, each file's frames are compared with a sequential decode.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from loader import order, overhead

from tubelet.datasets import PrepareConfig, prepare
from tubelet.video import (
    Scan,
    available_backends,
    clip_views,
    crop_resize,
    encode_video,
    open_video,
    random_clip,
    reencode,
    scan_video,
    spatial_boxes,
)
from tubelet.video.backend_pyav import PyAVReader

FRAMES, SIZE, CLIPS = 16, 224, 6
# As a Kinetics clip from the web: long groups of pictures, B-frames that others are predicted from.
KINETICS = {"preset": "medium", "crf": "23", "g": "250", "bf": "3", "x264-params": "b-pyramid=2:scenecut=0"}
SSV2 = {"crf": "33", "b": "0", "cpu-used": "4", "auto-alt-ref": "1", "lag-in-frames": "25"}
Way = Callable[[np.ndarray], torch.Tensor]


class Video:
    """One file in memory, its scan as an index keeps it, and a few random clips of it."""

    def __init__(self, path: Path, stride: int) -> None:
        self.data = path.read_bytes()
        self.packed = scan_video(self.data).pack()
        info = self.info = Scan.unpack(self.packed).info
        rng = np.random.default_rng(0)
        self.clips = [random_clip(info.frames, FRAMES, stride, rng) for _ in range(CLIPS)]
        self.box = spatial_boxes(info.height, info.width, 1)[0]
        self.out = torch.empty(1, FRAMES, SIZE, SIZE, 3, dtype=torch.uint8)
        self._compare()

    def _compare(self) -> None:
        wanted = self.clips[0]
        with av.open(io.BytesIO(self.data)) as container, open_video(self.data) as reader:
            container.streams.video[0].thread_type = "NONE"
            decoded = islice(container.decode(video=0), int(wanted.max()) + 1)
            images = np.stack([frame.to_ndarray(format="rgb24", threads=1) for frame in decoded])
            if not np.array_equal(reader.frames(wanted).numpy(), images[wanted]):
                raise SystemExit("the frames are not those of a sequential decode")

    def ours(self, wanted: np.ndarray) -> torch.Tensor:
        with open_video(self.data, scan=Scan.unpack(self.packed)) as reader:
            return reader.crops(wanted, [self.box], SIZE, out=self.out)

    def torchcodec(self, wanted: np.ndarray) -> torch.Tensor:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(self.data, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        return crop_resize(decoder.get_frames_at(wanted.tolist()).data, self.box, SIZE)

    def decord(self, wanted: np.ndarray) -> torch.Tensor:
        import decord

        reader = decord.VideoReader(io.BytesIO(self.data), ctx=decord.cpu(0), num_threads=1)
        return crop_resize(torch.from_numpy(reader.get_batch(wanted.tolist()).asnumpy()), self.box, SIZE)

    def pyav(self, wanted: np.ndarray) -> torch.Tensor:
        scan = Scan.unpack(self.packed)
        stamps = {int(scan.pts[scan.order[index]]) for index in wanted}
        images = []
        with av.open(io.BytesIO(self.data)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            container.seek(min(stamps), stream=stream)
            for frame in container.decode(stream):
                if frame.pts in stamps:
                    images.append(torch.from_numpy(frame.to_ndarray(format="rgb24", threads=1)))
                if frame.pts is not None and frame.pts >= max(stamps):
                    break
        return crop_resize(torch.stack(images), self.box, SIZE)

    def limit(self, wanted: np.ndarray, everything: bool = False) -> float:
        """Seconds of the decoder alone, over the fewest packets that hold the frames, or `everything` between."""
        seconds = 0.0
        with open_video(self.data, scan=Scan.unpack(self.packed)) as reader:
            assert isinstance(reader, PyAVReader)
            scan = reader._scan
            for key, last, group in reader._groups(np.unique(wanted)):
                sent = np.full(last + 1 - key, everything) | ~scan.spare[key : last + 1]
                sent[scan.order[group] - key] = True
                packets, decoder = list(reader._taken_out(key, last, sent)), scan.decoder.open()
                began = time.process_time()
                for packet in packets:
                    decoder.decode(packet)
                seconds += time.process_time() - began
        return seconds


def quartiles(ratios: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def seconds_of(way: Way, video: Video) -> float:
    began = time.process_time()
    for wanted in video.clips:
        way(wanted)
    return time.process_time() - began


def clips_row(title: str, videos: Sequence[Video], rounds: int, peers: Sequence[str]) -> None:
    spent: dict[str, list[float]] = {name: [] for name in ("ours", "limit", *peers)}
    for _ in range(rounds):
        for name, seconds in spent.items():
            if name == "limit":
                seconds.append(sum(video.limit(wanted) for video in videos for wanted in video.clips))
            else:
                seconds.append(sum(seconds_of(getattr(video, name), video) for video in videos))
    each = statistics.median(spent["ours"]) / (CLIPS * len(videos))
    over = [quartiles([t / o for t, o in zip(spent[peer], spent["ours"], strict=True)]) for peer in peers]
    limit = quartiles([t / o for t, o in zip(spent["limit"], spent["ours"], strict=True)])
    print(f"| {title} | {1000 * each:.1f} | {1 / each:.0f} | {limit} | " + " | ".join(over) + " |", flush=True)


def views_row(video: Video, stride: int, rounds: int) -> None:
    wanted = clip_views(video.info.frames, FRAMES, stride, 4)
    boxes = spatial_boxes(video.info.height, video.info.width, 3)
    ratios = []
    for _ in range(rounds):
        began = time.process_time()
        with open_video(video.data, scan=Scan.unpack(video.packed)) as reader:
            reader.crops(wanted.reshape(-1), boxes, SIZE)
        ours = time.process_time() - began
        ratios.append(ours / video.limit(wanted.reshape(-1), everything=True))
    print(f"\n12 test views (4x3) over decoding their span once: {quartiles(ratios)}", flush=True)


def made(folder: Path) -> tuple[list[Path], list[Path]]:
    """Videos with the texture of a photograph that moves, and grain, so that they cost what real ones do."""
    rng = np.random.default_rng(0)
    paths = []
    for number, (name, height, width, frames, rate, codec, options) in enumerate(
        [
            ("a.mp4", 256, 340, 300, 30, "libx264", KINETICS),
            ("b.mp4", 256, 340, 300, 30, "libx264", KINETICS),
            ("c.webm", 240, 426, 60, 12, "libvpx-vp9", SSV2),
        ]
    ):
        rough = rng.normal(size=(3, height + 200, width + 200))
        spectrum = np.fft.rfft2(rough)
        down, across = np.fft.fftfreq(rough.shape[1])[:, None], np.fft.rfftfreq(rough.shape[2])
        scene = np.fft.irfft2(spectrum / (0.004 + np.hypot(down, across)), s=rough.shape[1:])  # 1/f, as photographs
        scene = 128 + 40 * (scene - scene.mean()) / scene.std()
        clip = np.empty((frames, height, width, 3), np.uint8)
        for t in range(frames):
            y, x = round(100 + 90 * np.sin(t / 37 + number)), round(100 + 90 * np.cos(t / 23))
            view = scene[:, y : y + height, x : x + width] + rng.normal(0, 4, (1, height, width))
            clip[t] = view.clip(0, 255).transpose(1, 2, 0)
        encode_video(folder / name, clip, rate, codec, options)
        paths.append(folder / name)
    return paths[:2], paths[2:]


def clips(kinetics: Sequence[Path], ssv2: Sequence[Path], folder: Path, rounds: int) -> None:
    peers = [name for name in ("torchcodec", "decord", "pyav") if available_backends()[name]]
    print("| clip of 16 frames | ms | clips/s | limit | " + " | ".join(peers) + " |")
    print("|---|---|---|---|" + "---|" * len(peers))
    untouched = [Video(path, 4) for path in kinetics]
    clips_row("Kinetics as it is, stride 4", untouched, rounds, peers)
    clips_row("SSV2 as it is (VP9), stride 2", [Video(path, 2) for path in ssv2], rounds, peers)
    fast = []
    for number, path in enumerate(kinetics):
        reencode(path, folder / f"fast{number}.mp4")
        fast.append(Video(folder / f"fast{number}.mp4", 4))
    clips_row("Kinetics, `--encode fast`, stride 4", fast, rounds, peers)
    views_row(untouched[0], 4, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinetics", type=Path, nargs="+", help="H.264 videos of about 340 x 256 and 10 s")
    parser.add_argument("--ssv2", type=Path, nargs="+", help="VP9 videos of about 427 x 240")
    parser.add_argument(
        "--parts", nargs="+", choices=("clips", "loader", "order"), default=["clips", "loader", "order"]
    )
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds: quartiles need 2 or more")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        generated = ([], []) if args.kinetics and args.ssv2 else made(folder)
        kinetics, ssv2 = args.kinetics or generated[0], args.ssv2 or generated[1]
        if "clips" in args.parts:
            clips(kinetics, ssv2, folder, args.rounds)
        if "loader" in args.parts:
            videos = folder / "videos"
            videos.mkdir()
            for number in range(24):
                path = kinetics[number % len(kinetics)]
                (videos / f"{number}{path.suffix}").symlink_to(path.resolve())
            print("\nloader, 2 workers, `--encode fast`: ", end="", flush=True)
            prepare(PrepareConfig(out=folder / "shards", videos=videos, split="train", encode="fast"))
            overhead(folder / "shards", 2, 20, args.rounds)
        if "order" in args.parts:
            print()
            order(10_000_000)


if __name__ == "__main__":
    main()
