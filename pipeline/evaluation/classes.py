"""Which class each score of a network is of, and whether a dataset has the same ones."""

from __future__ import annotations

from pathlib import Path

from tubelet.datasets import ShardedSplit, read_classes

from ..checkpoints.trained import Trained
from ..errors import ConfigError

_ALPHABETICAL = ("Kinetics-600", "Kinetics-700", "Something-Something V2")
"""Published datasets whose classes the weights number alphabetically, as `tubelet prepare` does."""


def classes_of(trained: Trained, split: ShardedSplit, file: Path | None) -> tuple[list[str], str]:
    """Names in label order, and how they are known where the weights do not say: from `file`, else from the published
    dataset that the weights are of, whose list the data must have. Raises ConfigError where they are not known."""
    count = trained.model.num_classes
    if trained.classes is not None:
        if file is not None:
            raise ConfigError(f"--classes {file}: {trained.source} names its classes itself. Leave --classes out")
        return trained.classes, ""
    if file is not None:
        names = read_classes(file).names
        if len(names) != count:
            raise ConfigError(f"--classes {file}: names {len(names)} classes, and {trained.source} tells {count} apart")
        return names, f"the weights name no classes: taken to be the {count} of {file}"
    if trained.dataset == "Kinetics-400" or (trained.dataset is None and count == 400):
        return _kinetics_400(), "the weights name no classes: taken to be the 400 of Kinetics-400, alphabetically"
    if trained.dataset in _ALPHABETICAL and len(split.classes) == count:
        if split.classes not in (sorted(split.classes), sorted(split.classes, key=str.casefold)):
            raise ConfigError(
                f"{split.data}: its classes are not in alphabetical order, and {trained.source} numbers those of "
                f"{trained.dataset} so. Prepare it with the published list of classes, or give --classes FILE"
            )
        said = f"taken to be the {count} of {split.data}, alphabetically, as those of {trained.dataset}"
        return split.classes, f"the weights name no classes: {said}"
    raise ConfigError(
        f"{trained.source}: these weights come without the names of their {count} classes, and those of {split.data} "
        f"({len(split.classes)}) cannot be taken for them. Give --classes FILE, with a name a line in label order"
    )


def _kinetics_400() -> list[str]:
    from torchvision.models.video import R3D_18_Weights  # its list of names, and no weights

    return R3D_18_Weights.KINETICS400_V1.meta["categories"]


def check_classes(split: ShardedSplit, classes: list[str], source: str) -> None:
    """Raises ConfigError unless the data has the classes, in the order, that the network tells apart, and DataError
    unless each video has one of them, or as many as the dataset is made for."""
    if not split.card.multilabel:
        split.require_one_label()
    if split.classes == classes:
        return
    missing, new = [c for c in classes if c not in split.classes], [c for c in split.classes if c not in classes]
    parts = [f"{len(missing)} are missing, such as '{missing[0]}'"] if missing else []
    parts += [f"{len(new)} are unknown to it, such as '{new[0]}'"] if new else []
    raise ConfigError(
        f"{source} tells {len(classes)} classes apart, and {split.data} has {len(split.classes)}: "
        + ("; ".join(parts) or "the same ones in another order")
        + ". Give the data the model was trained on, or fine-tune it on this data"
    )
