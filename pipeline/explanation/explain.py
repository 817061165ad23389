"""What a network saw in a video: evidence for a class over space and time, as numbers, as a film and as a picture."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from tubelet.video import VideoReader, Windows, open_video, spatial_boxes

from ..config import Count, Positive
from ..embedding.network import Trained, load_network, windows_for
from ..errors import ConfigError
from ..inputs.clips import ClipInput
from .drawing import draw_sheet, write_overlay
from .filters import draw_filters
from .maps import Explainer

MAPS_FILE, OVERLAY_FILE, SHEET_FILE, FILTERS_FILE = "maps.npz", "overlay.mp4", "sheet.png", "filters.png"
_MOST_FRAMES = 2048  # their pixels and maps are held at once
_MOST_BEYOND_SPAN = 2  # clips that see each moment, where nothing is said of how they slide


@dataclass(frozen=True)
class ExplainConfig:
    checkpoint: str | None = None
    """Folder of a training run (its best checkpoint is taken), one checkpoint in it, a folder that `tubelet convert`
    wrote, or the id of published weights."""
    video: Path | None = None
    """Video to explain."""
    out: Path | None = None
    """Folder for maps.npz, overlay.mp4 and sheet.png, or for filters.png."""
    label: str | None = None
    """Class to find the evidence for (default: the one with the highest score over the video); of weights that come
    without names, its number."""
    every_seconds: Positive | None = None
    """Seconds from the start of a clip to that of the next (default: half a clip)."""
    batch_size: Count = 4
    """Clips at a time."""
    decoder: Literal["pyav", "decord", "torchcodec"] = "pyav"
    """Which library decodes."""
    filters: bool = False
    """Draw the filters of the network's first layer instead, beside the image's they come from."""
    image_weights: str | None = None
    """With --filters: file or id of the weights of the image network that this one began from (default: the mean of
    each filter over time stands for the image's)."""


@dataclass(frozen=True)
class Evidence:
    """A video as a network saw it: its F distinct frames in N clips.

    frames: uint8 (F, S, S, 3), cropped and scaled as they go in. numbers: (F,) of the frames in the video. times: (F,)
    in seconds. maps: (F, S, S) float32 from 0 to 1, the mean over the clips that see a frame, 1 where there is most of
    it. seconds: (N, 2) start and end of the clips. scores: (N, classes) from 0 to 1. label: the class explained.
    """

    frames: np.ndarray
    numbers: np.ndarray
    times: np.ndarray
    maps: np.ndarray
    seconds: np.ndarray
    scores: np.ndarray
    classes: list[str]
    label: int
    method: str
    layer: str
    box: tuple[int, int, int, int]


def explain(config: ExplainConfig) -> list[Path]:
    """Explains as `config` says, and returns the files written. Raises ConfigError, RunError, WeightsError and
    VideoError."""
    if config.out is None or (config.video is None) != config.filters:
        raise ConfigError("explaining needs --checkpoint RUN, --out DIR and either --video FILE or --filters")
    if config.image_weights is not None and not config.filters:
        raise ConfigError("--image-weights is the image network of --filters: give both, or neither")
    if config.out.exists() and not config.out.is_dir():
        raise ConfigError(f"{config.out}: is a file. Give --out a folder")
    trained = load_network(config.checkpoint)
    if config.video is None:
        config.out.mkdir(parents=True, exist_ok=True)
        return [draw_filters(trained.model, config.image_weights, config.out / FILTERS_FILE)]
    evidence = _evidence(config, config.video, trained)
    config.out.mkdir(parents=True, exist_ok=True)
    files = [config.out / name for name in (MAPS_FILE, OVERLAY_FILE, SHEET_FILE)]
    _save(evidence, files[0])
    write_overlay(evidence.frames, evidence.maps, evidence.times, files[1])
    what = f"{config.video.name}: evidence for {evidence.classes[evidence.label]!r}"
    draw_sheet(evidence, f"{what} ({trained.model.config['name']}, {evidence.method} at {evidence.layer})", files[2])
    return files


def _evidence(config: ExplainConfig, video: Path, trained: Trained) -> Evidence:
    classes = trained.classes or [str(number) for number in range(trained.model.num_classes)]
    label = None if config.label is None else _number_of(config.label, classes)
    with open_video(video, backend=config.decoder) as reader:
        times = reader.times()
        clips = _windows(trained, config.every_seconds).clips(times)
        numbers, places = np.unique(clips, return_inverse=True)
        places = places.reshape(clips.shape)
        if len(numbers) > _MOST_FRAMES:
            raise ConfigError(
                f"{video}: {len(numbers)} frames would be explained, and {_MOST_FRAMES} can be at once. Leave some out "
                "with a larger --every-seconds, or cut the video"
            )
        box = spatial_boxes(reader.info.height, reader.info.width, 1)[0]
        frames = _decode(reader, numbers, box, trained.clip.size)
        seconds = np.stack([times[clips[:, 0]], times[clips[:, -1]] + 1 / reader.info.rate], 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = trained.model.to(device)
    inputs = ClipInput(model.clip, device, "fp32")
    batches = [inputs_of for inputs_of in np.array_split(places, -(-len(places) // config.batch_size))]
    with torch.inference_mode():
        logits = torch.cat([model(inputs.views(frames[some])).cpu() for some in batches])
    scores = logits.sigmoid() if trained.multilabel else logits.softmax(-1)
    label = int(scores.mean(0).argmax()) if label is None else label
    explainer = Explainer(model)
    total, seen = torch.zeros(frames.shape[:3]), torch.zeros(len(frames), 1, 1)
    for some in tqdm(batches, desc="explaining", unit=" batches", disable=None):
        found = explainer(inputs.views(frames[some]), torch.full((len(some),), label, device=device)).cpu()
        index = torch.from_numpy(some).flatten()
        total.index_add_(0, index, found.flatten(0, 1))
        seen.index_add_(0, index, torch.ones(len(index), 1, 1))
    maps = total / seen
    maps = (maps / maps.max().clamp(min=torch.finfo(maps.dtype).tiny)).numpy()
    return Evidence(
        frames.numpy(), numbers, times[numbers], maps, seconds, scores.numpy(), classes, label, explainer.method,
        explainer.layer, box,
    )  # fmt: skip


def _windows(trained: Trained, every_seconds: float | None) -> Windows:
    """Clips as the network was trained on, one after the other or, where that means nothing, one of the whole video."""
    clip = trained.clip
    if every_seconds is not None:
        return windows_for(clip, every_seconds=every_seconds)
    if clip.sampling == "segments":
        return windows_for(clip)
    return windows_for(clip, every=max(1, clip.frames * clip.stride // _MOST_BEYOND_SPAN))


def _decode(reader: VideoReader, numbers: np.ndarray, box: tuple[int, int, int, int], size: int) -> torch.Tensor:
    frames = torch.empty(len(numbers), size, size, 3, dtype=torch.uint8)
    for place, frame in enumerate(reader.stream(numbers, box, size)):
        frames[place] = torch.from_numpy(frame)
    return frames


def _number_of(label: str, classes: list[str]) -> int:
    """Raises ConfigError with the nearest names for a class that there is not."""
    if label in classes:
        return classes.index(label)
    near = difflib.get_close_matches(label, classes, n=3, cutoff=0.4)
    mend = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are {', '.join(classes[:10])}"
    more = "" if near or len(classes) <= 10 else f" and {len(classes) - 10} more"
    raise ConfigError(f"--label {label}: the network knows no such class. {mend}{more}")


def _save(evidence: Evidence, file: Path) -> None:
    """Readable without unpickling. The file appears whole or not at all."""
    part = file.with_name(f".{file.stem}.part{file.suffix}")
    np.savez_compressed(
        part, maps=evidence.maps.astype(np.float16), frames=evidence.numbers, times=evidence.times,
        clip_seconds=evidence.seconds, scores=evidence.scores, classes=np.array(evidence.classes),
        label=np.array(evidence.classes[evidence.label]), method=np.array(evidence.method),
        layer=np.array(evidence.layer), box=np.array(evidence.box),
    )  # fmt: skip
    part.replace(file)
