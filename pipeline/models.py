"""The tables of models, with what each costs, and of published weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tubelet.backbones import count_cost, create_model, list_models, model_entry, published_weights


def model_table(pattern: str | None = None) -> Iterator[str]:
    """A header, then a line per model that matches the glob `pattern`: parameters, multiply-accumulates of one view
    (what papers call GFLOPs), clip and source. Models are built on the meta device: nothing is computed."""
    yield f"{'model':20} {'params M':>9} {'GMACs':>9}  {'frames x stride x size':24} what it is"
    for name in list_models(pattern):
        entry = model_entry(name)
        with torch.device("meta"):
            model = create_model(name)
            clip = entry.clip
            parameters, macs = count_cost(model, (1, 3, clip.frames, clip.size, clip.size))
        shape = f"{clip.frames} x {clip.stride} x {clip.size}"
        yield f"{name:20} {parameters / 1e6:9.2f} {macs / 1e9:9.1f}  {shape:24} {entry.summary}"


def weights_table(pattern: str | None = None) -> Iterator[str]:
    """A header, then a line per file of published weights whose model matches the glob `pattern`: its id, the model,
    what it was trained on, the score its publisher reports, the licence as stated."""
    records = published_weights(pattern)
    rows = [("weights", "model", "trained on", "top-1", "licence")]
    rows += [
        (record.id, record.model, record.dataset, "-" if record.top1 is None else f"{record.top1:.1f}", record.licence)
        for record in records
    ]
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, model, dataset, top1, licence in rows:
        yield f"{name:{wide[0]}}  {model:{wide[1]}}  {dataset:{wide[2]}}  {top1:>{wide[3]}}  {licence}"
