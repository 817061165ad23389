"""From tars of another tool to a trained model, by the commands that the README gives."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path


def test_tars_of_another_tool_are_trained_on(tubelet, videos: Path, tmp_path: Path) -> None:
    files = sorted(path for path in videos.rglob("*") if path.is_file())
    for split, some in (("train", files[::2]), ("val", files[1::2])):
        (tmp_path / "tars" / split).mkdir(parents=True)
        with tarfile.open(tmp_path / "tars" / split / "00000.tar", "w") as tar:
            for number, path in enumerate(some):
                tar.add(path, f"{number:05d}{path.suffix}")
                data = json.dumps({"label": path.parent.name, "videoID": "x"}).encode()
                about = tarfile.TarInfo(f"{number:05d}.json")
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))
    model = ("--model", "timesformer_tiny", "--model-args", "dim=32", "depth=1", "heads=2")
    words = ("train", *model, "--epochs", 1, "--batch-size", 4, "--workers", 1, "--out", tmp_path / "run", "--data")
    done = tubelet("index", tmp_path / "tars", "--workers", 1)
    assert done.code == 0, done.out
    assert "4 classes, from names of classes\n  train: 12 videos in 1 shards\n  val: 12 videos in 1 shards" in done.out
    done = tubelet(*words, f"{tmp_path}/tars/{{train,val}}/*.tar")
    assert done.code == 0, done.out
    assert "(12 videos, 1 view each)" in done.out
