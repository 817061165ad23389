"""Videos made on the spot, each of whose frames bears its own number in eight black or white blocks."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from tubelet.video import encode_video

HEIGHT, WIDTH, BLOCK = 64, 96, 16
# A long group of pictures with reordered B-frames: the case in which a wrong seek or count shows.
LONG_GOP = {"g": "40", "keyint_min": "40", "sc_threshold": "0", "bf": "3", "crf": "12"}


def numbered_frames(count: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(count, height, width, 3): bit b of a frame's number whitens block b of the two top rows; below, noise drifts."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 200, (height - 2 * BLOCK, width, 3), np.uint8)
    for number in range(count):
        frames[number, 2 * BLOCK :] = np.roll(noise, 3 * number, axis=1)
        for bit in range(8):
            if number >> bit & 1:
                top, left = (bit // 4) * BLOCK, (bit % 4) * BLOCK
                frames[number, top : top + BLOCK, left : left + BLOCK] = 255
    return frames


def read_frame_numbers(clip: object) -> list[int]:
    """The numbers that (T, H, W, 3) frames bear."""
    numbers = []
    for frame in np.asarray(clip):
        blocks = [frame[(b // 4) * BLOCK + 8, (b % 4) * BLOCK + 8].mean() > 128 for b in range(8)]
        numbers.append(sum(int(bit) << at for at, bit in enumerate(blocks)))
    return numbers


def write_stamped(
    path: Path, frames: np.ndarray, stamps: list[int], codec: str, options: dict[str, str], pixels: str = "yuv420p"
) -> None:
    """Writes frames at `stamps` milliseconds, in any container and format of pixels of FFmpeg's."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.thread_count = 1
        for image, stamp in zip(frames, stamps, strict=True):
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def turned_mp4(data: bytes, quarters: int) -> bytes:
    """The MP4 `data` with a display matrix of clockwise quarter turns in its track header."""
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]
    one = 0x10000
    cells = [cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 0x40000000]
    at = data.index(b"tkhd") + 44
    return data[:at] + b"".join(cell.to_bytes(4, "big", signed=True) for cell in cells) + data[at + 36 :]


def hide_packet(source: Path, target: Path, number: int) -> None:
    """Copies a VP8 video, of which one packet then only serves as a reference and is never shown."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for at, packet in enumerate(old.demux(video=0)):
            if not packet.size:
                continue
            data = bytearray(bytes(packet))
            data[0] &= ~0x10 if at == number else 0xFF
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            new.mux(copy)


@pytest.fixture(scope="session")
def numbered() -> Callable[..., np.ndarray]:
    return numbered_frames


@pytest.fixture(scope="session")
def turned() -> Callable[[bytes, int], bytes]:
    return turned_mp4


@pytest.fixture(scope="session")
def read_numbers() -> Callable[[object], list[int]]:
    return read_frame_numbers


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole videos by name; each has the numbered frames."""
    folder = tmp_path_factory.mktemp("videos")
    frames = numbered_frames(100)
    paths = {name: folder / name for name in ("h264.mp4", "h264.mkv", "vp9.webm", "mpeg4.avi", "one.mp4", "turned.mp4")}
    encode_video(paths["h264.mp4"], frames, 30, options=LONG_GOP)
    encode_video(paths["h264.mkv"], frames, 30, options=LONG_GOP)
    encode_video(paths["vp9.webm"], frames, 12, "libvpx-vp9")
    encode_video(paths["mpeg4.avi"], frames, 25, "mpeg4")
    encode_video(paths["one.mp4"], frames[:1], 30)
    paths["turned.mp4"].write_bytes(turned_mp4(paths["h264.mp4"].read_bytes(), 1))

    irregular = np.cumsum(np.resize([10, 40, 90, 20, 300], 100)).tolist()
    special = {
        "vfr.mkv": ("libx264", irregular, LONG_GOP),
        "altref.webm": (
            "libvpx-vp9",
            range(0, 4000, 40),
            {"auto-alt-ref": "1", "lag-in-frames": "25", "cpu-used": "5"},
        ),
        "vp8.webm": ("libvpx", range(0, 4000, 40), {"deadline": "realtime", "cpu-used": "8", "b": "900k"}),
        "bframes.avi": ("mpeg4", range(0, 4000, 40), {"bf": "2", "qscale": "3"}),
        "opengop.ts": ("libx264", range(0, 4000, 40), {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}),
        "opengop.mkv": ("libx264", range(0, 4000, 40), {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}),
    }
    for name, (codec, stamps, options) in special.items():
        paths[name] = folder / name
        write_stamped(paths[name], frames, list(stamps), codec, options)
    paths["ten_bit.mp4"] = folder / "ten_bit.mp4"
    write_stamped(paths["ten_bit.mp4"], frames[:10], list(range(0, 400, 40)), "libx264", {}, "yuv420p10le")
    paths["hidden.webm"] = folder / "hidden.webm"
    hide_packet(paths["vp8.webm"], paths["hidden.webm"], 40)
    return paths


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MP4 that holds sound only."""
    path = tmp_path_factory.mktemp("sounds") / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for at in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, at * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
