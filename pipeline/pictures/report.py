"""`tubelet report`: a run as one page: how it went, what it takes for what, and what it was made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
import yaml

from tubelet.datasets import ClipSettings, DataError, ShardedSplit

from ..config import Natural
from ..errors import ConfigError, RunError
from ..evaluation.confusion import confusion, most_confused
from ..evaluation.metrics import average_precisions
from ..evaluation.results import Results, read_results
from ..files import write_text
from ..training.logs import LOG_FILE, read_log
from . import report_page as html
from .browse import middles
from .charts import Line, line_chart, matrix_chart, series

_MOST_ROWS = 10  # of a table


@dataclass(frozen=True)
class ReportConfig:
    run: tyro.conf.Positional[Path]
    """Folder of a training run."""
    out: Path | None = None
    """The page to write (default: report.html in the run)."""
    evaluation: Path | None = None
    """JSON file of the evaluation to show (default: the newest in the run's checkpoints)."""
    data: str | None = None
    """Where the evaluated videos are (default: where they were)."""
    cache: Path | None = None
    """Folder for shards that are not on this machine (default: $TUBELET_HOME/shards or ~/.cache/tubelet/shards)."""
    videos: Natural = 4
    """How many of the best and of the worst videos are shown."""
    workers: Natural = 2
    """Processes that decode. 0: this one, which cannot end a decoder that hangs."""


def report(config: ReportConfig) -> str:
    """Writes the page, and says where. Raises RunError where there is no run, ConfigError for what is no evaluation."""
    run = config.run
    if not (run / LOG_FILE).is_file():
        what = "has no log of a training run" if run.is_dir() else "no such folder"
        raise RunError(f"{run}: {what}. Give the --out of `tubelet train`")
    lines = read_log(run)
    file = config.evaluation or _newest_evaluation(run)
    results = None if file is None else read_results(file)
    settings = _text(run / "config.yaml")
    recipe = yaml.safe_load(settings) or {}
    model, data = recipe.get("model", {}).get("model", ""), recipe.get("data", {}).get("data", "")
    parts = [
        html.facts(_facts(run, lines)),
        html.section("Training", _curves(lines)),
        html.section("Speed", _speed(lines)),
        html.section("Evaluation", *_evaluation(run, file, results)),
        html.section("Videos", *_videos(config, results)),
        html.section("What it was made of", *_sources(run, settings)),
    ]
    out = config.out or run / "report.html"
    try:
        write_text(out, html.page(run.resolve().name, f"{model} trained on {data}", parts))
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror or error})") from error
    return f"{out}: the page of the run" + ("" if file else "; it has no evaluation yet")


def _newest_evaluation(run: Path) -> Path | None:
    """Of those that are whole: the table beside the figures."""
    found = [file for file in run.glob("checkpoints/*/evaluation-*.json") if file.with_suffix(".parquet").is_file()]
    return max(found, key=lambda file: file.stat().st_mtime, default=None)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == kind]


def _metric(line: dict[str, Any]) -> tuple[str, str]:
    """The key and the name of what an evaluation is judged by."""
    return ("video_top1", "top-1") if line.get("mean_ap") is None else ("mean_ap", "mAP")


def _facts(run: Path, lines: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    training, evaluated = _of(lines, "train"), _of(lines, "eval")
    rows = []
    if evaluated:
        key, name = _metric(evaluated[-1])
        best = max(evaluated, key=lambda line: line[key])
        rows.append((f"best {name} in training", f"{best[key]:.1%}", f"step {best['step']}, {best['videos']} videos"))
    if training:
        last = training[-1]
        rows.append(("steps", f"{last['step']:,}", f"{last['epoch']:.1f} epochs begun"))
        rows.append(("training loss", f"{last['loss']:.3f}", f"{training[0]['loss']:.3f} at first"))
        speeds = [line["clips_per_s"] for line in training]
        rows.append(("clips a second", f"{np.median(speeds):,.1f}", "median, all processes"))
        waits = [line["data_wait"] for line in training]
        rows.append(("waiting for data", f"{np.median(waits):.0%}", "of the time, median"))
    if summary := _text(run / "summary.json"):
        found = json.loads(summary)
        rows.append(("bound by", found["bound_by"], f"{found['step_ms']:,.0f} ms a step"))
    return rows


def _curves(lines: list[dict[str, Any]]) -> str:
    training, evaluated = _of(lines, "train"), _of(lines, "eval")
    key, name = _metric(evaluated[-1]) if evaluated else ("video_top1", "top-1")
    return html.side_by_side(
        line_chart("Loss", [Line("training", series(training, "loss"), "a")], zero=True),
        line_chart(
            "Accuracy",
            [
                Line("top-1 of training clips, augmented", series(training, "top1", 100), "a"),
                Line(f"{name} of validation videos", series(evaluated, key, 100), "b", dots=True),
            ],
            unit="%",
            zero=True,
        ),
        line_chart("Learning rate", [Line("peak over groups", series(training, "lr"), "c")], zero=True),
        line_chart("Gradient norm", [Line("before clipping", series(training, "grad_norm"), "c")], zero=True),
    )


def _speed(lines: list[dict[str, Any]]) -> str:
    training = _of(lines, "train")
    waits = Line("share of the time", series(training, "data_wait", 100), "b")
    return html.side_by_side(
        line_chart("Clips a second", [Line("all processes", series(training, "clips_per_s"), "a")], zero=True),
        line_chart("Waiting for data", [waits], unit="%", zero=True),
    )


def _evaluation(run: Path, file: Path | None, results: Results | None) -> Iterator[str]:
    if file is None or results is None:
        yield html.gap(f"Not evaluated yet: tubelet evaluate --checkpoint {run} --data DATA, then this page again.")
        return
    about, told = results.about, json.loads(file.read_text(encoding="utf-8"))
    unread = f", {told['unread']} more could not be read" if told["unread"] else ""
    yield html.words(
        f"{Path(about['checkpoint']).name} on {told['videos']} videos of {about['split']} of {about['data']}{unread}; "
        f"{about['views']} views (temporal x spatial), {results.averaged} averaged."
    )
    names = {
        "mean_ap": "mAP",
        "video_top1": "top-1 per video",
        "video_top5": "top-5 per video",
        "mean_class": "mean over classes",
        "clip_top1": "top-1 per clip",
        "clip_top5": "top-5 per clip",
    }
    yield html.facts([(name, f"{told[key]:.2%}", "") for key, name in names.items() if told[key] is not None])
    read = np.flatnonzero(results.read)
    if about["multilabel"]:
        found = average_precisions(results.scores[read], results.targets[read])
        order = [number for number in np.argsort(found, kind="stable") if not np.isnan(found[number])]
        hardest = [(results.classes[number], f"{found[number]:.2%}") for number in order[:_MOST_ROWS]]
        yield html.heading("Hardest classes")
        yield html.card(html.table(("class", "average precision"), hardest))
        return
    counts = confusion(results.targets.argmax(1)[read], results.predicted[read], len(results.classes))
    yield html.heading("What is taken for what")
    yield html.card(html.words("A row is a label, a column what was predicted."), matrix_chart(counts, results.classes))
    if pairs := most_confused(counts, results.classes, _MOST_ROWS):
        yield html.heading("Most confused")
        rows = [(pair.label, pair.predicted, f"{pair.videos} of {pair.of}") for pair in pairs]
        yield html.card(html.table(("label", "predicted", "videos"), rows))


def margins(results: Results) -> np.ndarray:
    """(n,) by how much the lowest score of a video's labels is above the highest of the other classes; NaN of one that
    could not be read."""
    right = np.where(results.targets, results.scores, np.inf).min(1)
    wrong = np.where(results.targets, -np.inf, results.scores).max(1)
    with np.errstate(invalid="ignore"):  # a video without labels, or with all
        return np.where(results.read & np.isfinite(right) & np.isfinite(wrong), right - wrong, np.nan)


def _videos(config: ReportConfig, results: Results | None) -> Iterator[str]:
    if results is None or not config.videos:
        return
    margin = margins(results)
    order = [number for number in np.argsort(margin, kind="stable").tolist() if not np.isnan(margin[number])]
    worst = order[: config.videos]
    best = [number for number in order[::-1][: config.videos] if number not in worst]
    data = config.data or results.about["data"]
    try:
        strips = dict(_strips(config, results, data, [*worst, *best]))
    except DataError as error:
        yield html.gap(f"The videos are not shown: {error}. --data says where they are now.")
        return
    for title, numbers in (("Furthest from right", worst), ("Surest", best)):
        if numbers:
            yield html.heading(title)
            yield "\n".join(strips[number] for number in numbers)


def _strips(config: ReportConfig, results: Results, data: str, numbers: list[int]) -> Iterator[tuple[int, str]]:
    split = ShardedSplit(data, results.about["split"], config.cache)
    wanted = {number: results.keys[number] for number in numbers}
    found = split.find(list(wanted.values()))
    here = {found[key]: number for number, key in wanted.items() if key in found}
    for number, key in wanted.items():
        if key not in found:
            yield number, html.gap(f"{key}: is not in {data} any more")
    settings = ClipSettings(**results.about["clip"])
    for index, shown in middles(split, settings, sorted(here), config.workers):
        number = here[index]
        if shown.fault:
            yield number, html.gap(f"{shown.key}: cannot be read: {shown.fault}")
            continue
        labels = ", ".join(results.classes[label] for label in np.flatnonzero(results.targets[number]))
        predicted = results.predicted[number]
        score = f"{results.classes[predicted]} ({results.scores[number, predicted]:.2f})"
        yield number, html.strip(shown.clips[0], shown.key, f"label {labels}; predicted {score}")


def _sources(run: Path, settings: str) -> Iterator[str]:
    if settings:
        yield html.folded("Configuration", settings)
    for title, name in {"Environment": "environment", "DeepSpeed": "deepspeed", "Times": "summary"}.items():
        if text := _text(run / f"{name}.json"):
            yield html.folded(title, text)
