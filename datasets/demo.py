"""The demo set: real encoded videos of moving shapes, made on the spot, in which only time tells the classes apart.

Each video draws one scene from a phase that runs through a cycle at a constant speed, forwards for one class of a pair
and backwards for the other, from a start that is uniform over the cycle. So every frame, the first and the last too, is
distributed alike in both classes of a pair: a model that ignores the order of frames can tell the pair at most, and
guesses right every second time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from tqdm import tqdm

from tubelet.video import encode_video

from .errors import DataError
from .processes.parallel import process_pool

# (forwards, backwards) by scene
PAIRS = {
    "horizontal": ("right", "left"),
    "spin": ("clockwise", "anticlockwise"),
    "zoom": ("approaching", "receding"),
    "vertical": ("down", "up"),
    "sequence": ("disc_then_square", "square_then_disc"),
}
# A coarse quantiser leaves a trail where a shape has been, and a trail tells the direction in a single frame: so these
# are fine ones.
_ENCODINGS = (
    ("mp4", "libx264", {"preset": "veryfast", "crf": "10"}),
    ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "8", "b": "0"}),
    ("avi", "mpeg4", {"qmin": "1", "qmax": "2"}),
)
_SIZES = ((64, 64), (64, 96), (80, 112), (96, 72))  # height, width
_RATES = (12, 24, 25, 30)
_FRAMES = (20, 48)
# Cycles a frame. A clip of 8 frames with a stride of 2 then spans at most 0.42 of a cycle: less than the half at which
# its first and last frame could no longer be told in order, which a tiny network learns several times faster than to
# compare neighbouring frames. A sequence shows three pictures a cycle and so goes faster.
_SPEED = {"sequence": (0.03, 0.06)}
_DEFAULT_SPEED = (0.012, 0.03)


@dataclass(frozen=True)
class DemoConfig:
    out: Path | None = None
    """Folder of classes to make. Must be new or empty."""
    videos: Annotated[int, Field(ge=1)] = 1200
    """Videos in all, an equal number of each class."""
    pairs: int = 3
    """Pairs of classes that are time-reversals of each other: right/left, clockwise/anticlockwise,
    approaching/receding, down/up, disc then square/square then disc."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that encode (0: one per core)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides everything about the videos."""


def make_demo(config: DemoConfig) -> Path:
    """Encodes the demo set (H.264 mp4, VP9 webm, MPEG-4 avi) as a folder of classes. Returns the folder."""
    if config.out is None:
        raise DataError("nowhere to put the demo set. Give a folder: tubelet demo --out DIR")
    if not 1 <= config.pairs <= len(PAIRS):
        raise DataError(f"--pairs {config.pairs}: give 1 to {len(PAIRS)}")
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise DataError(f"{config.out}: is not an empty folder; choose another --out")
    scenes = list(PAIRS)[: config.pairs]
    jobs = [(scenes[i // 2 % len(scenes)], i % 2, i) for i in range(config.videos)]
    unfinished = config.out.with_name(f".{config.out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for label in (label for scene in scenes for label in PAIRS[scene]):
        (unfinished / label).mkdir(parents=True)
    with process_pool(config.workers or os.cpu_count() or 1) as pool:
        made = pool.map(partial(_make_video, unfinished, config.seed), jobs, chunksize=8).result()
        for _ in tqdm(made, "encoding", len(jobs), unit=" videos", disable=None):
            pass
    if config.out.exists():
        config.out.rmdir()
    unfinished.rename(config.out)
    return config.out


def _make_video(out: Path, seed: int, job: tuple[str, int, int]) -> None:
    scene, backwards, number = job
    # The direction is not drawn from it: all that is random about a video is distributed alike in both classes.
    rng = np.random.default_rng([seed, number])
    suffix, codec, options = _ENCODINGS[rng.integers(len(_ENCODINGS))]
    rate = _RATES[rng.integers(len(_RATES))]
    frames = draw_video(scene, bool(backwards), rng)
    encode_video(out / PAIRS[scene][backwards] / f"{number:05d}.{suffix}", frames, rate, codec, options)


def draw_video(scene: str, backwards: bool, rng: np.random.Generator) -> np.ndarray:
    """One video of a scene, uint8 (T, H, W, 3): a shape on a textured background."""
    height, width = _SIZES[rng.integers(len(_SIZES))]
    count = int(rng.integers(*_FRAMES, endpoint=True))
    speed = rng.uniform(*_SPEED.get(scene, _DEFAULT_SPEED)) * (-1 if backwards else 1)
    phases = (rng.uniform() + speed * np.arange(count)) % 1.0
    background, colour = _background(height, width, rng), _bright_colour(rng)
    paint = _SCENES[scene](height, width, rng)
    video = np.repeat(background[None], count, axis=0)
    for frame, phase in zip(video, phases, strict=True):
        frame[paint(phase)] = colour
    noise = rng.integers(-3, 4, size=video.shape, dtype=np.int16)
    return np.clip(video.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def _background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A still texture, uint8 (H, W, 3), no brighter than 100: coarse blotches and fine grain in one tint."""
    coarse = rng.uniform(0, 1, (-(-height // 8), -(-width // 8), 1)).repeat(8, 0).repeat(8, 1)[:height, :width]
    fine = rng.uniform(0, 1, (-(-height // 2), -(-width // 2), 1)).repeat(2, 0).repeat(2, 1)[:height, :width]
    tint = rng.uniform(0.3, 1.0, 3)
    return ((0.6 * coarse + 0.4 * fine) * tint * 100).astype(np.uint8)


def _bright_colour(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(170, 256, 3).astype(np.uint8)


Painter = Callable[[float], np.ndarray]


def _offsets(height: int, width: int, y: float, x: float) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each pixel from (y, x), all in units of the short side, on a picture whose borders are joined."""
    side = min(height, width)
    dy = (np.arange(height)[:, None] / height - y + 0.5) % 1.0 - 0.5
    dx = (np.arange(width)[None, :] / width - x + 0.5) % 1.0 - 0.5
    return dy * height / side, dx * width / side


def _disc(dy: np.ndarray, dx: np.ndarray, radius: float) -> np.ndarray:
    return dy**2 + dx**2 < radius**2


def _square(dy: np.ndarray, dx: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(abs(dy), abs(dx)) < 0.9 * radius


def _diamond(dy: np.ndarray, dx: np.ndarray, radius: float) -> np.ndarray:
    return abs(dy) + abs(dx) < 1.25 * radius


_SHAPES = (_disc, _square, _diamond)


def _moving(height: int, width: int, rng: np.random.Generator, vertical: bool) -> Painter:
    shape, radius, across = _SHAPES[rng.integers(3)], rng.uniform(0.14, 0.24), rng.uniform(0.3, 0.7)

    def paint(phase: float) -> np.ndarray:
        y, x = (phase, across) if vertical else (across, phase)
        return shape(*_offsets(height, width, y, x), radius)

    return paint


def _spin(height: int, width: int, rng: np.random.Generator) -> Painter:
    (y, x), radius = rng.uniform(0.4, 0.6, 2), rng.uniform(0.28, 0.4)
    dy, dx = _offsets(height, width, y, x)

    def paint(phase: float) -> np.ndarray:
        angle = 2 * np.pi * phase  # a half disc has no symmetry under rotation; image rows point down: clockwise
        return _disc(dy, dx, radius) & (np.cos(angle) * dx + np.sin(angle) * dy > 0)

    return paint


def _zoom(height: int, width: int, rng: np.random.Generator) -> Painter:
    shape, (y, x) = _SHAPES[rng.integers(3)], rng.uniform(0.4, 0.6, 2)
    offsets = _offsets(height, width, y, x)
    return lambda phase: shape(*offsets, 0.08 * 5.5**phase)


def _sequence(height: int, width: int, rng: np.random.Generator) -> Painter:
    (y, x), radius = rng.uniform(0.4, 0.6, 2), rng.uniform(0.2, 0.3)
    offsets = _offsets(height, width, y, x)
    pictures = (_disc(*offsets, radius), _square(*offsets, radius), np.zeros((height, width), bool))
    return lambda phase: pictures[int(phase * 3) % 3]


_SCENES: dict[str, Callable[[int, int, np.random.Generator], Painter]] = {
    "horizontal": partial(_moving, vertical=False),
    "vertical": partial(_moving, vertical=True),
    "spin": _spin,
    "zoom": _zoom,
    "sequence": _sequence,
}
