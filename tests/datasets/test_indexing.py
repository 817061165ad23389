"""`tubelet index`: tars of any origin become a dataset."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tubelet.datasets import DataError, ShardedSplit, read_card
from tubelet.datasets.shards.index import index_path
from tubelet.datasets.shards.samples import read_samples
from tubelet.launch.index import main
from tubelet.video import VideoError

from .test_index import Member, write_tar

CLASSES = ["anticlockwise", "clockwise", "left", "right"]


@pytest.fixture
def tars(videos: Path, tmp_path: Path) -> Path:
    """The videos as another tool would write them, with the name of the class in a .txt."""
    files = sorted(path for path in videos.rglob("*") if path.is_file())
    for number, name in enumerate(("train-0.tar", "train-1.tar", "val-0.tar")):
        members: list[Member] = []
        for path in files[number::3]:
            members += [
                (f"{path.stem}{path.suffix}", path.read_bytes()),
                (f"{path.stem}.txt", path.parent.name.encode()),
            ]
        write_tar(tmp_path / "tars" / name, members)
    return tmp_path / "tars"


def run(*words: object) -> None:
    main([*map(str, words), "--workers", "2"])


def labels(split: ShardedSplit) -> dict[str, str]:
    return {split.key(i): split.classes[label] for i, label in enumerate(split.labels)}


def test_a_folder_of_tars_becomes_a_dataset(tars: Path, videos: Path, capsys: pytest.CaptureFixture) -> None:
    run(tars)
    said = capsys.readouterr().out
    assert "24 videos of 24 samples in 3 shards" in said
    assert "4 classes, from the texts of .txt" in said
    card = read_card(tars)
    assert card.classes == CLASSES
    assert {name: split.videos for name, split in card.splits.items()} == {"train": 16, "val": 8}
    truth = {path.stem: path.parent.name for path in videos.rglob("*") if path.is_file()}
    assert labels(ShardedSplit(tars, "train")) | labels(ShardedSplit(tars, "val")) == truth
    for data in (tars / "val-0.tar", f"{tars}/*.tar"):
        assert labels(ShardedSplit(data, "val")) == labels(ShardedSplit(tars, "val"))


def test_what_is_there_and_whole_is_kept(tars: Path, capsys: pytest.CaptureFixture) -> None:
    run(tars)
    kept, stale, cut = (index_path(tars / name) for name in ("train-0.tar", "train-1.tar", "val-0.tar"))
    os.utime(kept, (1, 1))
    good = {file: file.read_bytes() for file in (kept, stale, cut)}
    stale.unlink()
    shutil.copy(kept, stale)
    cut.unlink()
    cut.write_bytes(good[cut][:100])
    capsys.readouterr()
    run(tars)
    assert "1 of 3 shards have their index already" in capsys.readouterr().out
    assert kept.stat().st_mtime == 1
    assert {file: file.read_bytes() for file in good} == good


def test_an_index_whose_scans_cannot_be_read_is_written_anew(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tubelet.video.Scan.pack", lambda scan: b"of another version")
        run(tars)
    split = ShardedSplit(tars, "train")
    with pytest.raises(VideoError, match=r"its index is damaged .*`tubelet index` writes it anew"):
        split.open(0)
    run(tars)
    ShardedSplit(tars, "train").open(0).close()


def test_a_tar_replaced_by_another_of_its_size_is_indexed_anew(tars: Path) -> None:
    shards = [tars / name for name in ("train-0.tar", "train-1.tar")]
    size = max(shard.stat().st_size for shard in shards)
    for shard in shards:  # zeros after the end mark are a part of a tar
        shard.write_bytes(shard.read_bytes().ljust(size, b"\0"))
    run(f"{tars}/train-*.tar")
    before = labels(ShardedSplit(shards[1], "train"))
    shutil.copy(shards[1], shards[0])
    run(shards[0])
    assert labels(ShardedSplit(shards[0], "train")).keys() == before.keys()


def test_classes_from_a_file(tars: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(["jump", *CLASSES[::-1]]))
    run(tars, "--classes", tmp_path / "classes.txt", "--split", "test")
    assert read_card(tars).classes == ["jump", *CLASSES[::-1]]
    (tars / "card.json").unlink()
    (tmp_path / "classes.json").write_text('{"a": 1, "b": 2}')
    with pytest.raises(DataError, match="numbers its classes from 1 on"):
        run(tars, "--classes", tmp_path / "classes.json")
    with pytest.raises(DataError, match="give the folder"):
        run(tars / "*.tar", "--classes", tmp_path / "classes.txt")


def test_splits_by_folder_or_as_told(tars: Path, capsys: pytest.CaptureFixture) -> None:
    for old, new in (("train-0.tar", "train/0.tar"), ("train-1.tar", "validation/0.tar"), ("val-0.tar", "rest/0.tar")):
        (tars / new).parent.mkdir()
        (tars / old).rename(tars / new)
    run(tars, "--split", "test")
    assert "1 shards tell no split by their names, so they are test" in capsys.readouterr().out
    card = read_card(tars)
    assert {name: [shard.file for shard in split.shards] for name, split in card.splits.items()} == {
        "test": ["rest/0.tar"],
        "train": ["train/0.tar"],
        "val": ["validation/0.tar"],
    }
    assert len(ShardedSplit(tars, "val")) == 8


def test_what_is_left_out_is_named(tars: Path, capsys: pytest.CaptureFixture) -> None:
    write_tar(tars / "train-2.tar", [("broken.mp4", b"no video"), ("alone.txt", b"left")])
    run(tars)
    report = json.loads((tars / "index-report.json").read_text())
    assert [entry["key"] for entry in report] == ["alone", "broken"]
    assert "train-2.tar, broken: " in capsys.readouterr().err
    assert (read_card(tars).splits["train"].videos, read_card(tars).splits["train"].listed) == (16, 18)


@pytest.mark.parametrize("suffix", ["mp4", "cls"])
def test_a_member_that_stands_twice_is_not_taken_for_either(suffix: str, tmp_path: Path) -> None:
    members = [("a.mp4", b"one"), ("a.cls", b"0"), ("b.mp4", b"two"), ("b.cls", b"1")]
    write_tar(tmp_path / "twice.tar", [*members, (f"a.{suffix}", b"1")])
    samples, left_out = read_samples(tmp_path / "twice.tar")
    assert [sample.key for sample in samples] == ["b"]
    assert left_out == [("a", f"its .{suffix} stands twice in the tar, or is stored as a sparse file")]


def test_a_decoder_that_hangs_meets_its_deadline(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from tubelet.datasets.shards.scanning import scan_video

    def slow_scan(source: object, *, name: str):
        if name == victim:
            time.sleep(60)
        return scan_video(source, name=name)

    victim = "00003"
    monkeypatch.setattr("tubelet.datasets.shards.scanning.scan_video", slow_scan)
    run(tars, "--deadline", 3)
    report = json.loads((tars / "index-report.json").read_text())
    assert {(entry["key"], entry["cause"][:29]) for entry in report} == {(victim, "not looked through within 3 s")}


def test_a_shard_cut_short_is_named_and_the_others_are_indexed(tars: Path) -> None:
    (tars / "train-1.tar").write_bytes((tars / "train-1.tar").read_bytes()[:3000])
    with pytest.raises(DataError, match=r"1 of 3 shards cannot be indexed.*\n.*train-1.tar: is no tar, or cut short"):
        run(tars)
    assert [index_path(tars / f"{name}.tar").exists() for name in ("train-0", "train-1", "val-0")] == [
        True,
        False,
        True,
    ]
    assert not (tars / "card.json").exists()


class TestDatasetsOfAnOlderTubelet:
    @pytest.fixture
    def old(self, dataset: Path, tmp_path: Path) -> Path:
        shutil.copytree(dataset, tmp_path / "old")
        for file in (tmp_path / "old").glob("*.index.arrow"):
            file.rename(file.with_name(file.name.replace(".arrow", ".parquet")))
        return tmp_path / "old"

    def test_need_no_preparing(self, old: Path, dataset: Path) -> None:
        with pytest.raises(DataError, match=rf"index of an older tubelet. `tubelet index {old}` writes it;"):
            ShardedSplit(old, "train")
        card = (old / "card.json").read_bytes()
        run(old)
        assert labels(ShardedSplit(old, "train")) == labels(ShardedSplit(dataset, "train"))
        assert (old / "card.json").read_bytes() == card

    def test_a_shard_that_is_not_the_one_of_the_card(self, old: Path) -> None:
        shard = sorted(old.glob("*.tar"))[0]
        shard.write_bytes(shard.read_bytes() + bytes(10240))
        with pytest.raises(DataError, match=f"{shard}: is not the shard that the card tells of"):
            run(old)


@pytest.mark.parametrize(
    ("data", "message"),
    [("nowhere", "nowhere: no such folder"), ("nowhere/*.tar", "no tar has a name like this"), ("", "holds no .tar")],
)
def test_where_nothing_is(tmp_path: Path, data: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(tmp_path / data)
