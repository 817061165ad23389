"""Ours computes what the published implementations compute: goldens recorded by goldens/record.py."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tubelet.backbones import create_model, load_weights

GOLDENS = sorted(Path(__file__).with_name("goldens").glob("*.safetensors"))


def read(path: Path) -> tuple[dict, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The call of create_model, the published state dict, and all tensors, `input` and `logits` among them."""
    with safe_open(path, framework="pt") as file:
        create = json.loads(file.metadata()["create"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    return create, state, tensors


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_logits_are_the_published_ones(path: Path, dtype: torch.dtype, tolerance: float) -> None:
    create, state, tensors = read(path)
    model = create_model(**create).eval()
    report = load_weights(model, state)
    assert len(report.loaded) == report.total
    with torch.no_grad():
        logits = model.to(dtype)(tensors["input"].to(dtype)).double()
    golden = tensors["logits"]
    assert (logits - golden).abs().max() <= tolerance * golden.abs().max()


@pytest.mark.parametrize(
    ("golden", "change", "wanted"),
    [
        ("csn-ir-pytorchvideo", {"norm_eps": 1e-3}, {"norm_eps": 1e-5}),
        ("csn-ip-vmz", {"norm_eps": 1e-5}, {"norm_eps": 1e-3}),
        ("r2plus1d-torchvision", {"norm_eps": 1e-3}, {"norm_eps": 1e-5}),
    ],
)
def test_weights_say_where_their_publisher_computes_otherwise(golden: str, change: dict, wanted: dict) -> None:
    create, state, _ = read(Path(__file__).with_name("goldens") / f"{golden}.safetensors")
    theirs = ", ".join(f"{key}={value!r}" for key, value in wanted.items())
    notes = load_weights(create_model(**create | change), state).notes
    assert any(f"computes with {theirs}, this model with" in note for note in notes)
    assert not any("computes with" in note for note in load_weights(create_model(**create | wanted), state).notes)


def test_goldens_are_here() -> None:
    assert len(GOLDENS) >= 10
