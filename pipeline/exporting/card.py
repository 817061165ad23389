"""The model card: README.md in Markdown, with the front matter that the Hugging Face Hub reads.

It says what is known and what is not: the network and its input, the data, the scores, the licences, and how to use it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from tubelet.backbones import model_entry

from ..checkpoints.trained import Trained
from .about import SCORES, About
from .graphs import INPUT, METADATA, OUTPUT

_LICENCES = ("apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "mit", "unknown")  # the Hub's names
_CLASSES_SHOWN = 20


def model_card(trained: Trained, told: About, files: Sequence[str], hub_name: str | None) -> str:
    """The text of README.md. files: formats that the folder holds; hub_name: OWNER/NAME where it will be."""
    name = trained.model.config["name"]
    title = hub_name.split("/")[1] if hub_name else name
    parts = (
        _usage(trained, files, hub_name),
        _network(trained),
        _data(told),
        _scores(told),
        _licence(told),
    )
    front = yaml.safe_dump(_front_matter(trained, told, title), sort_keys=False, allow_unicode=True)
    entry = model_entry(name)
    head = f"# {title}\n\n{entry.summary}. Classifies videos into {trained.model.num_classes} classes."
    return f"---\n{front}---\n\n" + "\n\n".join([head, *parts]) + "\n"


def _front_matter(trained: Trained, told: About, title: str) -> dict[str, Any]:
    licence = told.licence.lower()
    known = licence in _LICENCES
    family = trained.model.config["name"].split("_")[0]
    datasets = [told.data.name] if told.data else [told.published.dataset] if told.published else []
    front: dict[str, Any] = {
        "license": licence if known else "other",
        **({} if known else {"license_name": told.licence}),
        "library_name": "tubelet",
        "pipeline_tag": "video-classification",
        "tags": ["video-classification", "action-recognition", "tubelet", family],
        **({"datasets": datasets} if datasets else {}),
        "metrics": ["mAP" if trained.multilabel else "accuracy"],
    }
    results = [_result(one, told) for one in told.evaluations]
    return {**front, "model-index": [{"name": title, "results": results}]} if results else front


def _result(one: dict[str, Any], told: About) -> dict[str, Any]:
    name = told.data.name if told.data else "unknown"
    metrics = [
        {"type": "accuracy" if key != "mean_ap" else "mAP", "name": f"{label} ({one['views']} views)", "value": value}
        for key, label in SCORES.items()
        if (value := one.get(key)) is not None
    ]
    dataset = {"name": name, "type": name, "split": one["split"]}
    return {"task": {"type": "video-classification"}, "dataset": dataset, "metrics": metrics}


def _usage(trained: Trained, files: Sequence[str], hub_name: str | None) -> str:
    place = f"hf-hub:{hub_name}" if hub_name else "path/to/this/folder"
    blocks = []
    if "safetensors" in files:
        names = "" if trained.classes else ", classes=[...]"
        blocks.append(f"""\
            from tubelet.pipeline import Embedder
            embedder = Embedder("{place}"{names})
            scores = embedder.predict("video.mp4")     # {{class: score}}, the highest first""")
    if "pt2" in files:
        blocks.append(f"""\
            import torch
            about = {{"{METADATA}": ""}}                       # filled with model, clip and classes as JSON
            network = torch.export.load("model.pt2", extra_files=about).module()
            {OUTPUT} = network({INPUT})                      # the input is below""")
    if "onnx" in files:
        blocks.append(f"""\
            import onnxruntime
            session = onnxruntime.InferenceSession("model.onnx")
            about = session.get_modelmeta().custom_metadata_map     # model, clip and classes as JSON
            {OUTPUT} = session.run(["{OUTPUT}"], {{"{INPUT}": {INPUT}}})[0]""")
    return "## Use\n" + "\n\n".join(f"```python\n{textwrap.dedent(block)}\n```" for block in blocks)


def _network(trained: Trained) -> str:
    model = trained.model
    clip, config = model.clip, dict(model.config)
    taken = (
        f"one frame out of each of {clip.frames} equal parts of the video"
        if clip.sampling == "segments"
        else f"{clip.frames} frames, each {clip.stride} after the one before"
    )
    rows = [
        ("model", f"`{config.pop('name')}`, {model_entry(model.config['name']).source}"),
        ("parameters", f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M"),
        ("clip", f"{taken}, RGB, {clip.size} x {clip.size} pixels"),
        ("views of a video", f"{clip.views[0]} clips x {clip.views[1]} crops"),
        (
            "input of the graphs",
            f"`{INPUT}`: uint8 (batch, {clip.frames}, {clip.size}, {clip.size}, 3); they normalise",
        ),
        (
            "input of the network",
            f"float (batch, 3, {clip.frames}, {clip.size}, {clip.size}), (pixel / 255 - mean) / std",
        ),
        ("mean, std", f"{_numbers(clip.mean)}, {_numbers(clip.std)}"),
        ("output", f"`{OUTPUT}`: float32 (batch, {model.num_classes}); {_meaning(trained.multilabel)}"),
        ("SHA-256 of the weights exported", f"`{trained.sha256}`"),
    ]
    text = "## Network\n" + _table(("", ""), rows)
    settings = ", ".join(f"{key}={value!r}" for key, value in config.items())
    text += f"\n\nArchitecture: `{settings}`."
    if trained.classes:
        shown = ", ".join(trained.classes[:_CLASSES_SHOWN])
        rest = len(trained.classes) - _CLASSES_SHOWN
        text += f"\n\nClasses, in order: {shown}" + (f", and {rest} more, all in `config.json`." if rest > 0 else ".")
    else:
        text += "\n\nThe weights came without the names of their classes."
    return text


def _meaning(multilabel: bool) -> str:
    return "scores are their sigmoid" if multilabel else "scores are their softmax"


def _data(told: About) -> str:
    if told.data is None:
        what = f"Trained by its publisher on {told.published.dataset}." if told.published else "Not known."
        return f"## Training data\n{what}"
    card = told.data
    rows = [(name, split.videos, len(split.per_class) or "-") for name, split in card.splits.items()]
    labels = "several labels a video" if card.multilabel else "one label a video"
    of = (
        f"{card.name}: {len(card.classes)} classes, {labels}. The network learnt from `train`."
        if card.classes
        else card.name
    )
    return f"## Training data\n{of}\n\n" + _table(("split", "videos", "classes with videos"), rows)


def _scores(told: About) -> str:
    text = "## Scores\n"
    record = told.published
    if record is not None and record.top1 is not None:
        text += f"Its publisher reports top-1 {record.top1} % on {record.dataset} ({record.source}).\n\n"
    if not told.evaluations:
        return text + "Not evaluated before the export; `tubelet evaluate` does."
    shown = [key for key in SCORES if any(one.get(key) is not None for one in told.evaluations)]
    rows = [
        (one["split"], one["views"], one["average"], one.get("videos", "-"), *(_percent(one.get(key)) for key in shown))
        for one in told.evaluations
    ]
    return text + _table(("split", "views", "averaged", "videos", *(SCORES[key] for key in shown)), rows)


def _licence(told: About) -> str:
    source = f" ({told.published.source})" if told.published else ""
    return (
        f"## Licence\nWeights: {told.licence}{source}. The videos they were trained on have terms of their own, which "
        "may bear on what the weights may be used for. tubelet: Apache-2.0."
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
