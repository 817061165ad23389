"""Ours computes what the published implementations compute: goldens recorded by goldens/record.py."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tubelet.backbones import create_model, load_weights

GOLDENS = sorted(Path(__file__).with_name("goldens").glob("*.safetensors"))


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_logits_are_the_published_ones(path: Path, dtype: torch.dtype, tolerance: float) -> None:
    with safe_open(path, framework="pt") as file:
        create = json.loads(file.metadata()["create"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    model = create_model(**create).eval()
    report = load_weights(model, state)
    assert len(report.loaded) == report.total
    with torch.no_grad():
        logits = model.to(dtype)(tensors["input"].to(dtype)).double()
    golden = tensors["logits"]
    assert (logits - golden).abs().max() <= tolerance * golden.abs().max()


def test_goldens_are_here() -> None:
    assert len(GOLDENS) >= 10
