"""What can be wrong with what evaluation, embedding, search, probe and report are given: one message, exit code 1."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from tubelet.backbones import create_model
from tubelet.launch.main import start
from tubelet.pipeline.checkpoints.state import STATE_FILE

sys.path.append(str(Path(__file__).parent.parent / "pipeline"))
from embedding_tools import save_run, tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """A run, one of another model, one that has lost what it was trained on, an index of the first, and a file."""
    place = tmp_path_factory.mktemp("place")
    save_run(tiny(), place / "run")
    save_run(create_model("c3d_tiny", num_classes=4), place / "c3d")
    save_run(tiny(), place / "cardless")
    state = place / "cardless" / STATE_FILE
    state.write_text(
        json.dumps({name: value for name, value in json.loads(state.read_text()).items() if name != "clip"})
    )
    (place / "file").write_text("")
    (place / "video.mp4").symlink_to(min(videos.rglob("*.mp4")))
    words = ["--checkpoint", str(place / "run"), "--data", str(place / "video.mp4"), "--workers", "0"]
    importlib.import_module("tubelet.launch.embed").main([*words, "--out", str(place / "index")])
    return place


EMBED = "embed --data {place}/video.mp4 --workers 0"
EVALUATE = "evaluate --data {dataset} --workers 0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{EMBED} --out {{place}}/new", "no checkpoint given. --checkpoint takes"),
        (EVALUATE, "no checkpoint given. --checkpoint takes"),
        (f"{EMBED} --out {{place}}/new --checkpoint {{place}}", "holds no finished checkpoint. --checkpoint takes"),
        (f"{EVALUATE} --checkpoint {{place}}/gone", "gone: no such folder. --checkpoint takes"),
        ("report {place}/gone", "gone: no such folder. Give the --out of `tubelet train`"),
        (f"{EMBED} --out {{place}}/new --checkpoint {{place}}/cardless", "is missing or damaged ('clip'). Choose"),
        (f"{EVALUATE} --checkpoint {{place}}/cardless", "is missing or damaged ('clip'). Choose another"),
        (f"{EMBED} --out {{place}}/new --checkpoint {{place}}/run --layer block.1", "It has:\n  patch_embed"),
        (f"{EMBED} --out {{place}}/file/e --checkpoint {{place}}/run", "cannot be written (Not a directory). Choose"),
        (f"{EVALUATE} --out {{place}}/file/r.json --checkpoint {{checkpoint}}", "cannot be written (Not a directory)"),
        (
            "search {place}/index --video {place}/video.mp4 --checkpoint {place}/c3d",
            "holds vectors of timesformer_tiny, not of c3d_tiny, which say nothing",
        ),
        (
            f"{EMBED} --out {{place}}/index --checkpoint {{place}}/c3d",
            "already holds embeddings that were made otherwise",
        ),
        ("search {place} --key x", "holds no embeddings of tubelet"),
        ("probe {place}", "holds no embeddings of tubelet"),
    ],
)
def test_one_message(
    words: str, message: str, place: Path, dataset: Path, checkpoint: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("tubelet.launch.main._leave", leave)
    name, *rest = words.format(place=place, dataset=dataset, checkpoint=checkpoint).split()
    with pytest.raises(SystemExit) as ended:
        start(importlib.import_module(f"tubelet.launch.{name}").main, rest)
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith("error: ")
    assert message in said
    assert "Traceback" not in said
    assert not (place / "new").exists()
