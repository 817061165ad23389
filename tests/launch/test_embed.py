"""`tubelet embed`, `search` and `probe` as a user starts them: killed, resumed, in two processes, on a long video."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest

from tubelet.launch.embed import main as embed
from tubelet.launch.probe import main as probe
from tubelet.launch.search import main as search

sys.path.append(str(Path(__file__).parent.parent / "pipeline"))
from embedding_tools import long_video, save_run, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tiny(), tmp_path_factory.mktemp("run") / "run")


def same_content(one: Path, other: Path) -> bool:
    """File by file: names, rows and what made them."""
    names = [sorted(path.name for path in folder.iterdir()) for folder in (one, other)]
    parts = [name for name in names[0] if name.endswith(".parquet")]
    return names[0] == names[1] and all(
        pq.read_table(one / name).equals(pq.read_table(other / name), check_metadata=True) for name in parts
    )


def test_killed_runs_in_two_processes_store_what_a_straight_one_does(
    start, fork, tubelet, run: Path, videos: Path, tmp_path: Path, free_port: int
) -> None:
    words = ("--checkpoint", run, "--data", videos, "--every-seconds", 0.1, "--part-mb", 0.05, "--batch-size", 4)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    done = tubelet("embed", *words, "--out", straight, "--workers", 2)
    assert done.code == 0, done.out
    assert "clips/s" in done.out
    parts = len(list(straight.glob("*.parquet")))
    assert parts > 5
    # Slowed by its single worker, and killed as soon as a part is whole and another is on its way.
    started = fork("embed", *words, "--out", killed, "--workers", 1)
    deadline = time.monotonic() + 60
    while not list(killed.glob("*.parquet")) or not list(killed.glob(".part-*.tmp")):
        assert started.process.poll() is None, started.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    started.kill()
    whole = {file: file.stat().st_mtime_ns for file in killed.glob("part-*.parquet")}
    assert 0 < len(whole) < parts
    launcher = ("torchrun", "--nproc-per-node", 2, "--master_port", free_port)
    done = start(*launcher, "launch/embed.py", *words, "--out", killed, "--workers", 1).wait(120)
    assert done.code == 0, done.out
    assert same_content(straight, killed)
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in whole.items())  # left alone


def test_embed_then_search_and_probe(
    run: Path, dataset: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, file = tmp_path / "e", next(videos.rglob("*.mp4"))
    words = ("--checkpoint", run, "--data", dataset, "--layer", "blocks.1", "--workers", 0)
    embed([*map(str, words), "--out", str(out)])
    capsys.readouterr()
    search([str(out), "--video", str(file), "--top", "3", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found[0]["key"].endswith(file.stem)
    assert found[0]["similarity"] > 0.999
    probe([str(out)])
    told = capsys.readouterr().out
    assert "linear probe" in told
    assert "16 videos of train, 8 of val" in told


@pytest.mark.slow
def test_half_an_hour_in_constant_memory(start, run: Path, tmp_path: Path) -> None:
    """One decode pass over 45,000 frames, with all processes together below 2 GiB; no more than for a minute."""
    peaks, rows = [], []
    for minutes in (1, 30):
        video = long_video(tmp_path / f"{minutes}.mp4", minutes)
        out = tmp_path / f"e{minutes}"
        words = ("--checkpoint", run, "--data", video, "--every-seconds", 1, "--out", out, "--workers", 1)
        started = start("tubelet", "embed", *words)
        peak, until = 0, time.monotonic() + 300
        while started.process.poll() is None and time.monotonic() < until:
            peak = max(peak, _resident(started.process.pid))
            time.sleep(0.05)
        assert started.wait(1).code == 0, started.log.read_text()
        peaks.append(peak)
        rows.append(pandas.read_parquet(out))
    assert peaks[1] < 2 * 2**30
    assert peaks[1] < peaks[0] + 200 * 2**20
    assert len(rows[1]) == 1800
    np.testing.assert_allclose(rows[1].start, np.arange(1800), atol=0.05)
    assert rows[1].end.max() <= 1800.01


def _resident(session: int) -> int:
    """Bytes of all processes of a session, a page that several share counted once."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                    lines = (folder / "smaps_rollup").read_text().splitlines()
                    total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            except (OSError, IndexError):
                continue  # it has ended
    return total
