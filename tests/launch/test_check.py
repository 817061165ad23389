"""`tubelet check`: each kind of damage is found and named, and the list of bad videos is one that training takes."""

from __future__ import annotations

import json
import shutil
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.datasets import DataError, IndexConfig, index_data, read_card
from tubelet.datasets.shards import index, verifying
from tubelet.datasets.shards.card import Shard, write_card
from tubelet.datasets.shards.index import index_path, read_index, write_index
from tubelet.datasets.shards.verifying import places
from tubelet.launch.check import main
from tubelet.pipeline.training.faults import read_quarantine
from tubelet.video import VideoReader


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset, tmp_path / "shards"))


def shards(folder: Path) -> list[Path]:
    """Of training, in order."""
    return [folder / shard.file for shard in read_card(folder).splits["train"].shards]


def keys(shard: Path) -> list[str]:
    return read_index(shard).table["key"].to_pylist()


def damage(shard: Path) -> str:
    """Overwrites the second half of the shard's first video. Returns its key."""
    with tarfile.open(shard) as tar:
        video = next(member for member in tar if not member.name.endswith(".json"))
    data = bytearray(shard.read_bytes())
    half = video.size // 2
    data[video.offset_data + half : video.offset_data + video.size] = bytes(video.size - half)
    shard.write_bytes(data)
    return video.name.rpartition(".")[0]


def found(folder: Path, *words: str) -> dict:
    """The report of a check that finds faults."""
    with pytest.raises(DataError, match="faults"):
        main([str(folder), "--workers", "2", "--report", str(folder / "faults.json"), *words])
    return json.loads((folder / "faults.json").read_text())


def test_a_good_dataset_is_good(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report = tmp_path / "faults.json"
    for decode in ("places", "full", "none"):
        main([str(dataset), "--decode", decode, "--workers", "2", "--report", str(report)])
        content = json.loads(report.read_text())
        assert content["good"]
        assert content["faults"] == []
        for name, split in read_card(dataset).splits.items():
            counts = content["splits"][name]
            assert (counts["videos"], counts["shards"]) == (split.videos, len(split.shards))
            assert counts["decoded"] == (0 if decode == "none" else split.videos)
    assert "train: 16 videos in" in capsys.readouterr().out


def test_what_is_damaged_is_named_by_the_command(tubelet, copy: Path, tmp_path: Path) -> None:
    first, second, *_, last = shards(copy)
    bad = damage(first)
    second.write_bytes(second.read_bytes()[:-30_000])
    last.unlink()
    done = tubelet("check", copy, "--workers", 2, "--quarantine", tmp_path / "bad.jsonl")
    assert done.code == 1
    assert f"{first.name}: its sha256 is " in done.out
    assert f"{first.name}, {bad}: " in done.out
    assert f"{second.name}: it has " in done.out
    assert "it was cut short or changed" in done.out
    assert f"{last.name}: the shard is missing" in done.out
    quarantined = read_quarantine(tmp_path / "bad.jsonl")
    assert quarantined[bad] == 0
    in_first_two = {key for shard in (first, second) for key in keys(shard)}
    assert set(quarantined) < in_first_two


def test_an_index_of_another_shard(copy: Path) -> None:
    first, second, *_ = shards(copy)
    shutil.copy(index_path(second), index_path(first))
    report = found(copy)
    (fault,) = [fault for fault in report["faults"] if fault["key"] is None]
    assert (fault["what"], fault["shard"]) == ("index", first.name)
    assert "is the index of another tar than the card tells of" in fault["cause"]
    tried = report["splits"]["train"]["decoded"]
    assert report["splits"]["train"]["videos"] - tried == read_card(copy).splits["train"].shards[0].videos


def test_a_checksum_that_is_wrong_while_all_decodes(copy: Path) -> None:
    card = read_card(copy)
    train = card.splits["train"]
    wrong = replace(train.shards[0], sha256="0" * 64)
    write_card(replace(card, splits={**card.splits, "train": replace(train, shards=[wrong, *train.shards[1:]])}), copy)
    report = found(copy, "--decode", "none")
    assert {fault["what"] for fault in report["faults"]} == {"shard", "index"}
    assert all("sha256" in f["cause"] or "index of another tar" in f["cause"] for f in report["faults"])


def test_an_index_that_is_missing_or_does_not_fit(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = shards(copy)
    index_path(first).unlink()
    row = index._row
    with monkeypatch.context() as patch:
        patch.setattr(index, "_row", lambda sample, scan: {**row(sample, scan), "offset": sample.place.offset + 512})
        write_index(second)
    report = found(copy)
    causes = {(f["shard"], f["what"]): f["cause"] for f in report["faults"]}
    assert "the shard's index is missing" in causes[first.name, "index"]
    assert "the tar has it at" in causes[second.name, "index"]
    assert "is not the tar that was indexed" in causes[second.name, "video"]
    assert report["splits"]["train"]["unreadable"] == len(keys(second))


def test_labels_and_keys(copy: Path) -> None:
    """A shard that stands in two splits, in a card of fewer classes."""
    card = read_card(copy)
    double: Shard = card.splits["train"].shards[0]
    shutil.copy(copy / double.file, copy / "again.tar")
    shutil.copy(index_path(copy / double.file), copy / "again.index.arrow")
    val = card.splits["val"]
    val = replace(val, shards=[*val.shards, replace(double, file="again.tar")])
    write_card(replace(card, classes=card.classes[:1], splits={**card.splits, "val": val}), copy)
    report = found(copy, "--decode", "none")
    doubles = {f["key"] for f in report["faults"] if f["cause"] == f"its key stands in {double.file} too"}
    assert doubles == set(keys(copy / double.file))
    assert any("there are 1 classes" in fault["cause"] for fault in report["faults"])


def test_slower_ways_are_counted_by_reason(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The packets of a transport stream lie in pieces."""
    tars = tmp_path / "tars"
    tars.mkdir()
    source = next(videos.rglob("*.mp4"))
    with av.open(str(source)) as given, av.open(str(tmp_path / "b.ts"), "w") as stream:
        template = stream.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = template
                stream.mux(packet)
    with tarfile.open(tars / "train-0.tar", "w") as tar:
        tar.add(source, "a.mp4")
        tar.add(tmp_path / "b.ts", "b.ts")
        tar.add(Path(__file__), "no_video.mp4")
    for _ in index_data(IndexConfig(str(tars), workers=1)):
        pass
    for decode in ("places", "none"):
        main([str(tars), "--decode", decode, "--workers", "1", "--report", str(tmp_path / "all.json")])
        said = capsys.readouterr().out
        assert "1 videos take a slower way: its packets do not lie in the file" in said
        assert "1 samples are left out by the indices" in said
        report = json.loads((tmp_path / "all.json").read_text())
        assert report["slower"]["its packets do not lie in the file as the decoder wants them"] == 1
        assert report["left_out"]["train-0.tar"][0]["key"] == "no_video"


def test_a_video_that_hangs_is_given_up(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, *_ = keys(shards(copy)[0])
    opened = verifying.open_entry

    def hanging(shard: Path, entry: dict) -> VideoReader:
        if entry["key"] == hangs:
            time.sleep(600)
        return opened(shard, entry)

    monkeypatch.setattr(verifying, "open_entry", hanging)
    report = found(copy, "--deadline", "1")
    (fault,) = report["faults"]
    assert (fault["what"], fault["key"]) == ("video", hangs)
    assert fault["cause"].startswith("not decoded within 1 s")
    assert report["splits"]["train"]["decoded"] == 15


def test_no_list_of_bad_videos_without_decoding(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--decode none"):
        main([str(dataset), "--decode", "none", "--quarantine", str(tmp_path / "bad.jsonl")])


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_places_lie_in_the_video_and_reach_both_ends(first: int, frames: int) -> None:
    chosen = places(first, first + frames)
    assert (chosen[0], chosen[-1], len(chosen)) == (first, first + frames - 1, min(frames, 12))
    assert (np.diff(chosen) > 0).all()
    assert np.abs(chosen - (first + frames / 2)).min() <= 2
