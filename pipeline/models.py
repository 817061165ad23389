"""The table of models, with what each costs."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tubelet.backbones import count_cost, create_model, list_models, model_entry


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
