"""What is known of a network besides itself: its data, scores and licence, for the card, and for the next export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tubelet.backbones import PublishedWeights, WeightsError, meant_by, model_folder, published_record
from tubelet.datasets import Card, DataError, Split, read_card

from ..checkpoints.state import STATE_FILE
from ..checkpoints.trained import Trained
from ..errors import first_line
from ..files import write_json

ABOUT_FILE = "about.json"
UNKNOWN = "unknown"
SCORES = {"video_top1": "top-1", "video_top5": "top-5", "mean_class": "mean over classes", "mean_ap": "mAP"}


@dataclass(frozen=True)
class About:
    """data: the card of what it was trained on; evaluations: contents of the JSON files of `tubelet evaluate`;
    published: the record of the weights; remarks: what is not known, for the user."""

    licence: str
    data: Card | None = None
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    published: PublishedWeights | None = None
    remarks: list[str] = field(default_factory=list)


def about(trained: Trained, data: Path | None, licence: str | None) -> About:
    """What the run of a network, the record of published weights, an export before this one and the user tell. Raises
    DataError where `data` is no dataset, and WeightsError where ABOUT_FILE is damaged."""
    checkpoint, remarks = model_folder(trained.source), []
    known = _told_before(checkpoint, trained.sha256)
    published = known.published or meant_by(trained.source)
    card, why = (read_card(data), "") if data is not None else (known.data, "")
    if card is None and published is None:
        card, why = _card_of_run(checkpoint)
    if why:
        remarks.append(f"note: the model card says nothing of the data: {why}. --data FOLDER tells where its card is")
    licence = licence or (published.licence if published and known.licence == UNKNOWN else known.licence)
    if licence.lower() == UNKNOWN:
        remarks.append("note: the model card gives no licence. --licence names that of the weights")
    found = [*known.evaluations, *_evaluations(checkpoint, trained.sha256)]
    evaluations = {(one["split"], one["views"], one.get("average")): one for one in found}  # of two alike the later
    return About(licence, card, list(evaluations.values()), published, remarks)


def _card_of_run(checkpoint: Path) -> tuple[Card | None, str]:
    """The card of the dataset that a run was trained on, else why there is none."""
    if not (checkpoint / STATE_FILE).is_file():
        return None, "only a training run knows it"
    config = checkpoint.parent.parent / "config.yaml"
    try:
        data = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["data"]
        return read_card(Path(data)), ""
    except DataError as error:
        return None, str(error).split(". ")[0]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None, f"{config} does not tell where it was"


def _evaluations(checkpoint: Path, sha256: str) -> Iterator[dict[str, Any]]:
    """Those that lie beside the weights and are of them, by split and views."""
    for file in sorted(checkpoint.glob("evaluation-*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("weights_sha256") == sha256:
            yield content


def write_about(told: About, sha256: str, folder: Path) -> None:
    """Keeps what is told in ABOUT_FILE, for weights of this SHA-256: no places of this machine, and no shards."""
    shown = ("split", "views", "average", "videos", *SCORES)
    card = None
    if told.data is not None:
        splits = {name: replace(split, shards=[]) for name, split in told.data.splits.items()}
        card = asdict(replace(told.data, source={}, splits=splits))
    content = {
        "weights_sha256": sha256,
        "licence": told.licence,
        "published": told.published and told.published.id,
        "data": card,
        "evaluations": [{key: one[key] for key in shown if key in one} for one in told.evaluations],
    }
    write_json(folder / ABOUT_FILE, content)


def _told_before(folder: Path, sha256: str) -> About:
    """What the ABOUT_FILE beside the weights tells of them; nothing where there is none, or of other weights."""
    file = folder / ABOUT_FILE
    if not file.is_file():
        return About(UNKNOWN)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["weights_sha256"] != sha256:
            return About(UNKNOWN)
        card, published = content["data"], content["published"]
        if card is not None:
            card = Card(**{**card, "splits": {name: Split(**split) for name, split in card["splits"].items()}})
        record = None if published is None else published_record(published)
        return About(content["licence"], card, content["evaluations"], record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file}: is damaged ({first_line(error)}). Remove it, or export the run again") from error
