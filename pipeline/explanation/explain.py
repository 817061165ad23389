"""What a network saw in a video: evidence for a class over space and time, as numbers, as a film and as a picture."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from tubelet.backbones import Model
from tubelet.video import Box, Windows, open_video, spatial_boxes

from ..checkpoints.trained import Trained, load_network
from ..config import Count, Positive
from ..embedding.network import windows_for
from ..errors import ConfigError
from ..files import whole
from ..inputs.clips import ClipInput
from .drawing import draw_sheet, write_overlay
from .filters import draw_filters
from .maps import GRAD_CAM, Explainer, Method

MAPS_FILE, OVERLAY_FILE, SHEET_FILE, FILTERS_FILE = "maps.npz", "overlay.mp4", "sheet.png", "filters.png"
_MOST_FRAMES = 2048  # their pixels and maps are held at once
_CLIPS_A_MOMENT = 2  # where nothing is said of how they slide


@dataclass(frozen=True)
class ExplainConfig:
    checkpoint: str | None = None
    """Folder of a training run (its best checkpoint is taken), one checkpoint in it, a folder that `tubelet export` or
    `tubelet convert` wrote, hf-hub:OWNER/NAME for such a folder on the Hub, or the id of published weights."""
    video: Path | None = None
    """Video to explain."""
    out: Path | None = None
    """Folder for maps.npz, overlay.mp4 and sheet.png, or for filters.png."""
    label: str | None = None
    """Class to find the evidence for (default: the one with the highest score over the video); of weights that come
    without names, its number."""
    method: Method = "gradient"
    """gradient: evidence for the class, by Grad-CAM of convolutions, by gradient x activation through fixed attention
    of networks that attend; rollout: what the attention of all layers looks at, whatever the class."""
    layer: str | None = None
    """Stage whose map Grad-CAM explains (default: the last with at least 4 x 4 places)."""
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
    in seconds. maps: (F, S, S) float32 from 0 to 1, the mean over the clips that see a frame, each as much as its
    score, 1 where there is most of it. seconds: (N, 2) start and end of the clips. scores: (N, classes) from 0 to 1.
    label: the class explained. method and layer: of the `Explainer`. box: (top, left, height, width) of what is seen
    of the video.
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
    box: Box

    @property
    def name(self) -> str:
        """Of the class explained."""
        return self.classes[self.label]


def explain(config: ExplainConfig) -> list[Path]:
    """Explains as `config` says, and returns the files written. Raises ConfigError, RunError, WeightsError and
    VideoError."""
    out, video = config.out, config.video
    if out is None or (video is None) != config.filters:
        raise ConfigError("explaining needs --checkpoint RUN, --out DIR and either --video FILE or --filters")
    if config.image_weights is not None and not config.filters:
        raise ConfigError("--image-weights is the image network of --filters: give both, or neither")
    trained = load_network(config.checkpoint)
    with _made(out):  # before all the work
        if video is None:
            picture = draw_filters(trained.model, config.image_weights)
            with _writing(out), whole(out / FILTERS_FILE) as part:
                picture.savefig(part)
            return [out / FILTERS_FILE]
        evidence = find_evidence(config, video, trained)
        with _writing(out):
            return _write(evidence, f"{trained.model.config['name']} sees {video.name}", out)


@contextmanager
def _made(out: Path) -> Iterator[None]:
    """The folder, with those above it; what was not there before goes away, if it is empty, when the block raises."""
    with _writing(out):
        new = [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror or error}). Give a folder") from error


def find_evidence(config: ExplainConfig, video: Path, trained: Trained) -> Evidence:
    """What the network saw in a video. Raises ConfigError and VideoError."""
    classes = trained.classes or [str(number) for number in range(trained.model.num_classes)]
    label = None if config.label is None else _number_of(config.label, classes)
    explainer = Explainer(trained.model, config.method, config.layer)
    with open_video(video, backend=config.decoder) as reader:
        times = reader.times()
        clips = _windows(trained, config.every_seconds).clips(times)
        numbers = np.unique(clips)
        if len(numbers) > _MOST_FRAMES:
            raise ConfigError(
                f"{video}: {len(numbers)} frames would be explained, and {_MOST_FRAMES} can be at once. Leave some out "
                "with a larger --every-seconds, or cut the video"
            )
        box = spatial_boxes(reader.info.height, reader.info.width, 1)[0]
        frames = reader.crops(numbers, [box], trained.clip.size)[0]
        seconds = np.stack([times[clips[:, 0]], times[clips[:, -1]] + 1 / reader.info.rate], 1)
    saw = _Viewer(trained.model, frames, torch.from_numpy(np.searchsorted(numbers, clips)), config.batch_size)
    logits = saw.logits()
    scores = (logits.sigmoid() if trained.multilabel else logits.softmax(-1)).numpy()
    label = int(scores.mean(0).argmax()) if label is None else label
    maps = saw.maps(explainer, label, torch.from_numpy(scores[:, label]))
    if not maps.any():
        print(_nothing_found(explainer, classes[label], config.layer), file=sys.stderr)
    return Evidence(
        frames.numpy(), numbers, times[numbers], maps, seconds, scores, classes, label, explainer.method,
        explainer.layer, box,
    )  # fmt: skip


def _nothing_found(explainer: Explainer, label: str, layer: str | None) -> str:
    others = f"{'another' if layer else 'an earlier'} --layer or " if explainer.method == GRAD_CAM else ""
    return (
        f"warning: the maps are empty: at {explainer.layer} {explainer.method} finds nothing that speaks for "
        f"{label!r}, only what speaks against it. Try {others}another --label"
    )


class _Viewer:
    """A network before the clips of a video: frames uint8 (F, S, S, 3), and which of them make each clip, (N, T)."""

    def __init__(self, model: Model, frames: torch.Tensor, clips: torch.Tensor, batch_size: int):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(device)
        self._frames, self._batches = frames, clips.split(batch_size)
        self._inputs = ClipInput(model.clip, device, "fp32")

    @torch.inference_mode()
    def logits(self) -> torch.Tensor:
        """(N, classes)."""
        return torch.cat([self.model(self._inputs.views(self._frames[some])).cpu() for some in self._batches])

    def maps(self, explainer: Explainer, label: int, scores: torch.Tensor) -> np.ndarray:
        """(F, S, S) from 0 to 1: of each frame the mean over the clips that see it. A clip counts as much as its score
        (N,): what little speaks for a class in a clip of another would else stand out as much."""
        total, seen = torch.zeros(self._frames.shape[:3]), torch.zeros(len(self._frames), 1, 1)
        weights = scores[:, None, None, None].split(self._batches[0].shape[0])
        pairs = zip(self._batches, weights, strict=True)
        for some, weight in tqdm(pairs, "explaining", len(weights), unit=" batches", disable=None):
            clips = self._inputs.views(self._frames[some])
            found = weight * explainer(clips, torch.full((len(clips),), label, device=clips.device)).cpu()
            total.index_add_(0, some.flatten(), found.flatten(0, 1))
            seen.index_add_(0, some.flatten(), torch.ones(some.numel(), 1, 1))
        maps = total / seen
        return (maps / maps.max().clamp(min=torch.finfo(maps.dtype).tiny)).numpy()


def _windows(trained: Trained, every_seconds: float | None) -> Windows:
    """Clips as the network was trained on, each beginning in the middle of the one before or, where clips are spread
    over whole videos, a single one."""
    clip = trained.clip
    if every_seconds is not None or clip.sampling == "segments":
        return windows_for(clip, every_seconds=every_seconds)
    return windows_for(clip, every=max(1, clip.frames * clip.stride // _CLIPS_A_MOMENT))


def _number_of(label: str, classes: list[str]) -> int:
    """Raises ConfigError with the nearest names for a class that there is not."""
    if label in classes:
        return classes.index(label)
    near = difflib.get_close_matches(label, classes, n=3, cutoff=0.4)
    mend = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are {', '.join(classes[:10])}"
    more = "" if near or len(classes) <= 10 else f" and {len(classes) - 10} more"
    raise ConfigError(f"--label {label}: the network knows no such class. {mend}{more}")


def _write(evidence: Evidence, what: str, out: Path) -> list[Path]:
    files = [out / name for name in (MAPS_FILE, OVERLAY_FILE, SHEET_FILE)]
    with whole(files[0]) as part:  # strings as arrays of strings, readable without unpickling
        np.savez_compressed(
            part, maps=evidence.maps.astype(np.float16), frames=evidence.numbers, times=evidence.times,
            clip_seconds=evidence.seconds, scores=evidence.scores, classes=np.array(evidence.classes),
            label=np.array(evidence.name), method=np.array(evidence.method),
            layer=np.array(evidence.layer), box=np.array(evidence.box),
        )  # fmt: skip
    write_overlay(evidence.frames, evidence.maps, evidence.times, files[1])
    draw_sheet(evidence, f"{what}: evidence for {evidence.name!r} ({evidence.method} at {evidence.layer})", files[2])
    return files
