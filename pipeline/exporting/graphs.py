"""A network as one traced file: a PyTorch program (`torch.export`) or ONNX, for any number of clips at once.

Both take frames as a decoder gives them, uint8 (B, T, H, W, 3) in RGB, and put out logits (B, classes): normalising is
part of the graph, so that nobody can do it with the wrong numbers. What else a user needs to know, the clip and the
names of the classes, is in the file's metadata.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.backbones import Model
from tubelet.video import normalize, scale_and_shift

from ..errors import ConfigError, RunError, first_line

INPUT, OUTPUT = "frames", "logits"
METADATA = "tubelet.json"
TOLERANCE = 1e-4
"""The largest difference between the scores of a graph and of the network, in parts of the largest score."""

_TRACED, _CHECKED = 2, (1, 3)  # clips at once
_NEEDED = ("onnx", "onnxscript", "onnxruntime")

Graph = Callable[[Tensor], Tensor]


class FromFrames(nn.Module):
    """uint8 frames (B, T, H, W, 3) -> logits (B, classes)."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model
        scale, shift = scale_and_shift(model.clip.mean, model.clip.std, torch.device("cpu"))
        self.register_buffer("scale", scale.clone())
        self.register_buffer("shift", shift.clone())

    def forward(self, frames: Tensor) -> Tensor:
        clips = torch.addcmul(self.get_buffer("shift"), frames.float(), self.get_buffer("scale"))
        return self.model(clips.permute(0, 4, 1, 2, 3))


def require_onnx() -> None:
    """Raises ConfigError where a package that ONNX takes is not installed."""
    import importlib.util

    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--format onnx needs {' and '.join(missing)}: pip install 'tubelet[export]'")


def traced(model: Model) -> torch.export.ExportedProgram:
    """From frames to logits, for any number of clips. Raises RunError where tracing fails."""
    clip = model.clip
    frames = torch.zeros(_TRACED, clip.frames, clip.size, clip.size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    with _quiet(), _told("graph"), torch.no_grad():
        network = FromFrames(model).eval()
        return torch.export.export(network, (frames,), dynamic_shapes={INPUT: {0: batch}}, strict=False)


def write_pt2(program: torch.export.ExportedProgram, model: Model, file: Path, metadata: Mapping[str, Any]) -> float:
    """Writes `program` for `torch.export.load`, `metadata` as JSON in its extra file `METADATA`, and gives its
    difference from the network, see `difference`. Raises RunError where it cannot be written so, or differs."""
    with _quiet(), _told(file.name):
        torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
        graph = torch.export.load(file).module()
    return _checked(graph, model, file)


def write_onnx(program: torch.export.ExportedProgram, model: Model, file: Path, metadata: Mapping[str, Any]) -> float:
    """Writes `program` for ONNX Runtime, `metadata` as JSON under its keys. Otherwise as `write_pt2`."""
    with _quiet(), _told(file.name):
        translated = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT])
        assert translated is not None  # it is where dynamo is used
        translated.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
        translated.save(file)
    return _checked(_in_onnx_runtime(file), model, file)


def difference(graph: Graph, model: Model, seed: int = 0) -> float:
    """The largest difference between the scores of `graph` and of `model`, in parts of the largest absolute score of
    `model`, on random clips: batches of other numbers of them than were traced. NaN where either is no number."""
    clip = model.clip
    rng = torch.Generator().manual_seed(seed)
    worst = 0.0
    for batch in _CHECKED:
        frames = torch.randint(0, 256, (batch, clip.frames, clip.size, clip.size, 3), generator=rng, dtype=torch.uint8)
        with torch.inference_mode():
            ours, theirs = model(normalize(frames, clip.mean, clip.std)), graph(frames)
        if theirs.shape != ours.shape:
            return float("nan")
        apart, largest = float((theirs - ours).abs().max()), float(ours.abs().max())
        share = apart / largest if largest else apart
        if not share <= worst:  # also where it is no number
            worst = share
    return worst


def _checked(graph: Graph, model: Model, file: Path) -> float:
    with _told(file.name):
        share = difference(graph, model)
    if not share <= TOLERANCE:
        raise RunError(
            f"{file.name}: its scores differ from the network's by {share:.1e} of the largest score, and "
            f"{TOLERANCE:.0e} is allowed. Nothing was written; another --format may do"
        )
    return share


def _in_onnx_runtime(file: Path) -> Graph:
    import onnxruntime

    with _told(file.name):
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda frames: torch.from_numpy(session.run([OUTPUT], {INPUT: frames.numpy()})[0])


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever the exporters raise (they have no error of their own in common) as one message."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        raise RunError(
            f"{what}: this network cannot be exported so ({type(first).__name__}: {first_line(first)}). Nothing was "
            "written; another --format may do"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' words about their own workings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
