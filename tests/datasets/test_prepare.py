from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import webdataset

from tubelet.datasets import DataError, PrepareConfig, ShardedSplit, prepare, read_card
from tubelet.datasets.shards.index import read_index
from tubelet.video import open_video


def test_every_video_is_in_one_shard_with_its_bytes(videos: Path, dataset: Path) -> None:
    files = {p.relative_to(videos).with_suffix("").as_posix(): p for p in videos.rglob("*") if p.is_file()}
    seen = {}
    card = read_card(dataset)
    assert card.classes == ["anticlockwise", "clockwise", "left", "right"]
    for name in ("train", "val"):
        split = ShardedSplit(dataset, name)
        assert len(card.splits[name].shards) > 1
        for index in range(len(split)):
            key = split.key(index)
            span = split.span(index)
            assert span.path.read_bytes()[span.offset :][: span.size] == files[key].read_bytes()
            assert split.classes[split.labels[index]] == key.split("/")[0]
            seen[key] = name
    assert seen.keys() == files.keys()
    assert card.splits["val"].per_class == dict.fromkeys(card.classes, 2)


def test_the_index_tells_the_truth(dataset: Path) -> None:
    for path in dataset.glob("*.tar"):
        for row in read_index(path).table.to_pylist():
            with path.open("rb") as handle:
                handle.seek(row["offset"])
                data = handle.read(row["size"])
            with open_video(data) as video:
                assert video.info.frames == row["frames"]
                assert len(video.frames(range(row["frames"]))) == row["frames"]
                assert (video.info.height, video.info.width) == (row["height"], row["width"])
                assert video.info.codec == row["codec"]
                assert video.info.rate == pytest.approx(row["rate"])


def test_tar_and_webdataset_read_the_shards(dataset: Path) -> None:
    shard = sorted(dataset.glob("*-train-*.tar"))[0]
    with tarfile.open(shard) as tar:
        names = tar.getnames()
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False))
    assert len(samples) == len(names) // 2
    for sample in samples:
        assert json.loads(sample["json"])["classes"] == [sample["__key__"].split("/")[0]]
        assert sum(kind in sample for kind in ("mp4", "webm", "avi")) == 1


def test_the_same_input_and_seed_give_the_same_bytes(videos: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare(PrepareConfig(out=tmp_path / name, videos=videos, name="same", check="packets"))
    ours, theirs = (sorted((tmp_path / name).glob("*.tar")) for name in ("a", "b"))
    assert [p.read_bytes() for p in ours] == [p.read_bytes() for p in theirs]


def test_bad_files_are_reported_and_left_out(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    (folder / "left" / "empty.mp4").touch()
    (folder / "left" / "notes.txt").write_text("not a video")
    victim = next(folder.rglob("*.mp4"))
    (folder / "right" / "cut.mp4").write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    with pytest.raises(DataError, match=r"3 of 27 videos are bad, more than --max-bad 2"):
        prepare(PrepareConfig(out=tmp_path / "out", videos=folder, max_bad="2"))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    causes = {Path(entry["path"]).name: entry["cause"] for entry in report["bad"]}
    assert set(causes) == {"empty.mp4", "notes.txt", "cut.mp4"}
    assert "empty" in causes["empty.mp4"]
    assert all(causes.values())
    card = read_card(tmp_path / "out")  # the good ones are there all the same
    assert sum(split.videos for split in card.splits.values()) == 24


def test_a_decoder_that_hangs_meets_its_deadline(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from tubelet.datasets.preparing.checking import scan_video

    stuck = next((videos / "left").iterdir()).name

    def slow_probe(source: Path, **options: bool):
        if source.name == stuck:
            time.sleep(60)
        return scan_video(source, **options)

    monkeypatch.setattr("tubelet.datasets.preparing.checking.scan_video", slow_probe)
    prepare(PrepareConfig(out=tmp_path / "out", videos=videos, max_bad="1", deadline=5, check="packets"))
    bad = json.loads((tmp_path / "out" / "report.json").read_text())["bad"]
    assert [(Path(entry["path"]).name, entry["cause"][:22]) for entry in bad] == [(stuck, "not checked within 5 s")]


def test_videos_without_labels(videos: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(videos.rglob("*.*"))[:6]):
        shutil.copy(path, flat / f"{number}{path.suffix}")
    card = prepare(PrepareConfig(out=tmp_path / "out", videos=flat, check="packets"))
    assert card.classes == []
    assert {name: split.videos for name, split in card.splits.items()} == {"train": 6}  # nothing to validate
    assert set(ShardedSplit(tmp_path / "out", "train").labels) == {-1}


def test_one_split_for_all(videos: Path, tmp_path: Path) -> None:
    card = prepare(PrepareConfig(out=tmp_path / "out", videos=videos, split="test", check="packets"))
    assert {name: split.videos for name, split in card.splits.items()} == {"test": 24}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"videos": None}, "nothing to prepare"),
        ({"split": "dev"}, "--split dev"),
        ({"max_bad": "few"}, "--max-bad few"),
        ({"labels": (Path("nowhere.csv"),)}, "nowhere.csv: no such file"),
    ],
)
def test_arguments_that_cannot_be_used(videos: Path, tmp_path: Path, change: dict, message: str) -> None:
    arguments = {"out": tmp_path / "out", "videos": videos, **change}
    with pytest.raises(DataError, match=message):
        prepare(PrepareConfig(**arguments))
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_not_touched(dataset: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="already holds a dataset; add --overwrite"):
        prepare(PrepareConfig(out=dataset, videos=videos))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        prepare(PrepareConfig(out=tmp_path, videos=videos, overwrite=True))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


class TestWhatIsRefused:
    @pytest.fixture
    def copy(self, dataset: Path, tmp_path: Path) -> Path:
        shutil.copytree(dataset, tmp_path / "copy")
        return tmp_path / "copy"

    def refused(self, folder: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            ShardedSplit(folder, "train")

    def test_no_such_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "nowhere", "no such folder")

    def test_unfinished(self, copy: Path) -> None:
        (copy / "card.json").unlink()
        self.refused(copy, "did not finish")

    def test_another_version(self, copy: Path) -> None:
        card = json.loads((copy / "card.json").read_text())
        (copy / "card.json").write_text(json.dumps({**card, "version": 99}))
        self.refused(copy, "version 99 of the shard format")

    def test_a_damaged_card(self, copy: Path) -> None:
        (copy / "card.json").write_text("{")
        self.refused(copy, "cannot be read")

    def test_a_shard_cut_short(self, copy: Path) -> None:
        shard = sorted(copy.glob("*-train-*.tar"))[0]
        shard.write_bytes(shard.read_bytes()[:1000])
        self.refused(copy, "cut short")

    def test_a_missing_index(self, copy: Path) -> None:
        sorted(copy.glob("*-train-*.index.arrow"))[0].unlink()
        self.refused(copy, "index is missing")

    def test_an_unknown_split(self, copy: Path) -> None:
        with pytest.raises(DataError, match="no split 'dev'; it has train, val"):
            ShardedSplit(copy, "dev")


def test_shards_are_written_to_a_folder_only(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="--out s3:/bucket/data: is no folder"):
        prepare(PrepareConfig(videos=videos, out=Path("s3://bucket/data")))
    assert not any(tmp_path.iterdir())
