"""A trained network as one object for one's own code: from a video file to vectors, or to named class scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from tubelet.datasets import StreamSettings, clips_of
from tubelet.video import Windows, open_video

from ..checkpoints.trained import Trained, load_network
from ..config import Precision
from ..errors import ConfigError
from ..inputs.clips import ClipInput, autocast
from .network import Vectors, names_of, windows_for

_BATCH = 8


class Embedder:
    """The network of a training run (its best checkpoint), of a folder that `tubelet export` or `convert` wrote,
    here or on the Hub ("hf-hub:owner/name"), or of the id of published weights, with the frames, the crop and the
    normalisation that its weights were trained on.

        embedder = Embedder("run")
        vector = embedder.embed("video.mp4")
        scores = embedder.predict("video.mp4")

    classes: names in label order, for weights that come without them. device: default, a GPU where there is one.
    layer: as `--layer` of `tubelet embed`. windows: which clips of a video are taken (default: `clips` of them, evenly
    spread, as long as the network was trained on). Raises RunError, WeightsError or ConfigError where it cannot be.
    """

    def __init__(
        self,
        source: str | Path | Trained,
        *,
        classes: Sequence[str] | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        layer: str | None = None,
        clips: int = 4,
        windows: Windows | None = None,
        decoder: str = "pyav",
    ):
        self.trained = source if isinstance(source, Trained) else load_network(source)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.windows = windows or windows_for(self.trained.clip, count=clips)
        self._classes, self._precision, self._decoder = classes, precision, decoder
        self._vectors = Vectors(self.trained.model, layer).to(self.device)
        self._inputs = ClipInput(self.trained.model.clip, self.device, precision)

    @property
    def classes(self) -> list[str]:
        """Names in label order. Raises ConfigError where the weights come without them."""
        return names_of(self._classes, self.trained)

    def embed(self, video: str | Path | bytes) -> np.ndarray:
        """The mean of the vectors of a video's clips, (features,) float32. Raises VideoError."""
        return self.embed_clips(video)[1].mean(0)

    def embed_clips(self, video: str | Path | bytes) -> tuple[np.ndarray, np.ndarray]:
        """Start and end in seconds (N, 2) and vector (N, features) float32 of each clip. Raises VideoError."""
        seconds, vectors = zip(*self._through(self._vectors, video), strict=True)
        return np.concatenate(seconds), np.concatenate(vectors)

    def predict(self, video: str | Path | bytes) -> dict[str, float]:
        """The score of each class from 0 to 1, the highest first: the mean over the clips of the softmax, or where a
        video has several labels of the sigmoid. Raises VideoError, and ConfigError without names of the classes."""
        names = self.classes
        logits = torch.cat([torch.from_numpy(part) for _, part in self._through(self.trained.model, video)])
        scores = (logits.sigmoid() if self.trained.multilabel else logits.softmax(-1)).mean(0).tolist()
        return dict(sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1]))

    def _through(self, network: torch.nn.Module, video: str | Path | bytes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Seconds and outputs of the clips of a video, some at a time: a long one is never in memory whole."""
        if self.windows.frames != self.trained.clip.frames:
            raise ConfigError(f"windows of {self.windows.frames} frames for a network of {self.trained.clip.frames}")
        settings = StreamSettings(self.windows, self.trained.clip.size, self._decoder)
        with open_video(video, backend=self._decoder) as reader:
            clips = clips_of(reader, 0, reader.info.frames, settings)
            while some := list(islice(clips, _BATCH)):
                frames = torch.from_numpy(np.stack([np.stack(clip[3]) for clip in some]))
                with torch.inference_mode(), autocast(self.device, self._precision):
                    outputs = network(self._inputs.views(frames)).float().cpu().numpy()
                yield np.array([clip[:2] for clip in some]), outputs
