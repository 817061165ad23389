"""`tubelet report`: a page that is whole, also where a run has little to show, and that a browser draws."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet.launch.evaluate import main as evaluate
from tubelet.launch.report import main as report
from tubelet.pipeline.errors import ConfigError, RunError
from tubelet.pipeline.files import write_json
from tubelet.pipeline.pictures.charts import Line, line_chart, matrix_chart

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A browser in a test asks nobody for updates, and a container gives it no sandbox of its own.
HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
HEADLESS += ("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr")


class Page(HTMLParser):
    def __init__(self, file: Path):
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def lines() -> list[dict]:
    training = [
        {
            "step": step,
            "kind": "train",
            "epoch": step / 10,
            "loss": 2 / step,
            "top1": step / 40,
            "lr": 0.1,
            "grad_norm": None if step == 3 else 1.0,
            "clips_per_s": 10.0 + step,
            "data_wait": 0.25,
        }
        for step in range(1, 31)
    ]
    evaluated = {"step": 30, "kind": "eval", "video_top1": 0.5, "mean_ap": None, "videos": 8}
    return [*training, {"step": 7, "kind": "spike", "loss": 9.0}, evaluated]


@pytest.fixture(scope="module")
def run(dataset: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a log, an evaluated checkpoint of random weights, and a configuration that is no HTML."""
    run = tmp_path_factory.mktemp("runs") / "a <b> run"
    shutil.copytree(checkpoint, run / "checkpoints" / checkpoint.name)
    (run / "checkpoints" / "latest").write_text(checkpoint.name)
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines()))
    (run / "config.yaml").write_text("model: {model: c3d_tiny}\ndata: {data: '</pre><script>'}\n")
    write_json(run / "summary.json", {"bound_by": "computing", "step_ms": 12.5})
    evaluate(["--checkpoint", str(run), "--data", str(dataset), "--views", "1x1", "--workers", "0"])
    return run


@pytest.fixture
def reported(run: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(*words: object) -> Path:
        report([str(run), "--out", str(tmp_path / "page.html"), "--workers", "0", *map(str, words)])
        return tmp_path / "page.html"

    return make


def test_the_page_is_whole(reported: Callable[..., Path], run: Path) -> None:
    page = Page(reported("--videos", 2))
    assert not {"script", "link", "iframe", "b>"} & set(page.tags)
    assert page.tags.count("img") == 4
    assert all(source.startswith("data:image/webp;base64,") for source in page.sources)
    assert page.tags.count("svg") == 7, "six charts and the matrix"
    assert "a <b> run" in page.text
    assert "</pre><script>" in page.text, "the configuration is a text"
    told = json.loads(next(run.glob("checkpoints/*/evaluation-val-1x1.json")).read_text())
    for part in (f"{told['video_top1']:.2%}", "50.0%", "Most confused", "Furthest from right", "Surest", "computing"):
        assert part in page.text, part


def test_without_shards_the_rest_is_there(reported: Callable[..., Path], tmp_path: Path) -> None:
    page = Page(reported("--data", tmp_path / "gone"))
    assert "The videos are not shown" in page.text
    assert "img" not in page.tags
    assert "Most confused" in page.text


def test_without_an_evaluation_the_page_says_how_to_get_one(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(run / "log.jsonl", tmp_path / "run")
    report([str(tmp_path / "run")])
    page = Page(tmp_path / "run" / "report.html")
    assert "Not evaluated yet: tubelet evaluate --checkpoint" in page.text
    assert page.tags.count("svg") == 6


def test_what_is_no_run(tmp_path: Path, run: Path) -> None:
    with pytest.raises(RunError, match=r"no such folder\. Give the --out of `tubelet train`"):
        report([str(tmp_path / "no")])
    with pytest.raises(RunError, match="has no log of a training run"):
        report([str(tmp_path)])
    with pytest.raises(ConfigError, match="cannot be written"):
        report([str(run), "--videos", "0", "--out", str(tmp_path / "no" / "page.html")])
    with pytest.raises(ConfigError, match=r"has no results of `tubelet evaluate`"):
        report([str(run), "--evaluation", str(tmp_path / "no.json")])


@pytest.mark.parametrize("values", [[(1, 5.0)], [(1, None), (2, float("nan")), (3, 0.0), (4, 0.0)]])
def test_charts_of_next_to_nothing(values: list) -> None:
    drawn = line_chart("a & b", [Line("x", values, "a")], zero=True)
    assert "nan" not in drawn
    assert "a &amp; b" in drawn
    assert line_chart("t", [Line("x", [(1, None)], "a")]) == ""
    assert ">7.5e-4</text>" in line_chart("rate", [Line("x", [(1, 1e-3)], "a")], zero=True)


def test_a_long_line_keeps_its_range_and_not_its_points() -> None:
    points = Line("x", [(step, step / 1e5) for step in range(100_000)], "a").points()
    assert len(points) == 300
    assert points[0, 0] < 400
    assert points[-1, 1] > 0.99


def test_a_matrix_of_many_classes_has_a_cell_a_confusion() -> None:
    counts = np.diag(np.full(50, 3))
    counts[0, 1] = 1
    drawn = matrix_chart(counts, [f"c{number}" for number in range(50)])
    assert drawn.count("<title>") == 51
    assert "c0 taken for c1: 1 of 4" in drawn
    assert "<text" not in drawn


@pytest.mark.slow
@pytest.mark.parametrize("size", ["1180,1600", "500,1600"])
def test_a_browser_draws_it(size: str, reported: Callable[..., Path], tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    shot = tmp_path / "shot.png"
    words = (f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={size}", f"--screenshot={shot}")
    page = reported("--videos", 1).as_uri()
    done = subprocess.run([browser, *HEADLESS, *words, page], capture_output=True, text=True, timeout=100)
    assert shot.is_file(), done.stderr[-2000:]
    assert not re.findall(r".*:CONSOLE.*", done.stderr)
    picture = np.asarray(Image.open(shot).convert("L"), float)
    assert all(part.std() > 3 for part in np.array_split(picture, 4)), "a part of the page is blank"
