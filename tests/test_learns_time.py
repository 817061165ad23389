"""The proof that a model uses time: the demo set, whose classes differ in nothing but the order of frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def accuracy(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "eval"][-1]["video_top1"]


@pytest.mark.slow
def test_divided_attention_sees_the_order_of_frames_and_space_only_does_not(start, tubelet, tmp_path: Path) -> None:
    """Same recipe, same budget, side by side: at least 90 % on held-out videos, and near the 50 % of a guessed pair."""
    assert tubelet("demo", "--out", tmp_path / "videos", timeout=300).code == 0
    made = tubelet("prepare", "--videos", tmp_path / "videos", "--out", tmp_path / "data", "--check", "packets")
    assert made.code == 0, made.out
    words = ("train", "--recipe", "demo", "--data", tmp_path / "data", "--workers", 1, "--eval-every", 100)
    runs = {
        attention: start("tubelet", *words, "--out", tmp_path / attention, "--model-args", f"attention={attention}")
        for attention in ("divided", "space")
    }
    for attention, run in runs.items():
        assert run.wait(1500).code == 0, attention
    assert accuracy(tmp_path / "divided") >= 0.9
    assert accuracy(tmp_path / "space") < 0.6
