"""What the commands take for a trained network: a run, one of its checkpoints, a folder of weights, published ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tubelet.backbones import Model, create_published, fetch, load_model, meant_by, model_folder
from tubelet.datasets import checksum

from ..errors import RunError
from .finding import load_trained
from .state import STATE_FILE, WEIGHTS_FILE, Clip


@dataclass(frozen=True)
class Trained:
    """A network with what it was trained for. classes: their names in label order, None where they are not known;
    multilabel: whether a video has several of them; sha256: of the file of its weights; source: the folder or id that
    it came from; dataset: what published weights of that id were trained on."""

    model: Model
    clip: Clip
    classes: list[str] | None
    sha256: str
    source: str
    multilabel: bool = False
    dataset: str | None = None


def load_network(source: str | Path | None) -> Trained:
    """The network of a training run or of one checkpoint in it, of a folder that `tubelet export` or `tubelet convert`
    wrote, here or on the Hugging Face Hub ("hf-hub:owner/name"), or of the id of published weights; in evaluation mode
    on the CPU. Raises RunError and WeightsError where there is none."""
    if source is not None and (record := meant_by(source)) is not None:
        model, digest = create_published(record.id), checksum(fetch(record))
        return Trained(model.eval(), Clip.of(model.clip), None, digest, record.id, dataset=record.dataset)
    folder = model_folder(source) if source is not None else None
    if folder is not None and (folder / "config.json").is_file() and not (folder / STATE_FILE).is_file():
        model = load_model(folder)
        sha256 = checksum(folder / WEIGHTS_FILE)
        return Trained(model.eval(), Clip.of(model.clip), model.classes, sha256, str(source), model.multilabel)
    model, state, checkpoint = load_trained(folder)
    if not state.classes:
        raise RunError(f"{checkpoint / STATE_FILE}: names no classes. Choose another checkpoint with --checkpoint")
    sha256 = state.files[WEIGHTS_FILE]  # which load_trained has compared
    return Trained(model, state.clip, state.classes, sha256, str(checkpoint), state.multilabel)
