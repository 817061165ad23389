"""Indices of shards, ours and those that other tools made, written from the finished tar alone."""

from __future__ import annotations

import gzip
import io
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest
import webdataset

from tubelet.datasets import DataError, ShardedSplit
from tubelet.datasets.shards.index import Index, index_path, read_index, write_index
from tubelet.video import VideoError, open_video

Member = tuple[str, bytes]


@pytest.fixture(scope="session")
def clip(videos: Path) -> bytes:
    return min(videos.rglob("*.mp4"), key=lambda path: path.stat().st_size).read_bytes()


def write_tar(path: Path, members: list[Member], format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def rows_of(index: Index) -> dict[str, dict]:
    return {row["key"]: row for row in index.table.to_pylist()}


def causes_of(index: Index) -> dict[str, str]:
    return dict(index.left_out)


class TestTarsOfOthers:
    @pytest.mark.parametrize(
        ("members", "labels", "names", "text"),
        [
            ([], None, None, None),
            ([("k.cls", b"3\n")], [3], None, None),
            ([("k.cls", b"-1")], [], None, None),
            ([("k.cls", b"run")], None, ["run"], None),
            ([("k.txt", "un café".encode())], None, None, "un café"),
            ([("k.cls", b"3"), ("k.txt", b"run")], [3], None, "run"),
            ([("k.json", b'{"label": 7, "videoID": "x"}')], [7], None, None),
            ([("k.json", b'{"label": "run"}')], None, ["run"], None),
            ([("k.json", b'{"labels": ["run", "jump"]}')], None, ["run", "jump"], None),
            ([("k.json", b'{"labels": []}')], [], None, None),
            ([("k.json", b'{"cls": 1, "caption": "y"}'), ("k.m4a", b"sound")], [1], None, None),
            ([("k.json", b'{"label": 1}'), ("k.cls", b"2")], [2], None, None),
            ([("k.json", b'["no", "labels"]')], None, None, None),
        ],
    )
    def test_what_they_say_of_a_video(
        self, clip: bytes, tmp_path: Path, members: list[Member], labels: object, names: object, text: object
    ) -> None:
        index = write_index(write_tar(tmp_path / "a.tar", [("k.MP4", clip), *members]))
        row = rows_of(index)["k"]
        assert (row["labels"], row["names"], row["text"]) == (labels, names, text)
        assert (row["start_frame"], row["end_frame"], row["suffix"]) == (0, row["frames"], "mp4")
        assert not index.left_out

    def test_what_cannot_be_used_is_left_out_with_its_cause(self, clip: bytes, tmp_path: Path) -> None:
        tar = [
            ("good.mp4", clip),
            ("notes.txt", b"alone"),
            ("picture.jpg", b"x"),
            ("cut.mp4", clip[: len(clip) // 2]),
            ("fake.mp4", b"no video"),
            ("two.mp4", clip),
            ("two.webm", clip),
            ("badjson.mp4", clip),
            ("badjson.json", b"{"),
            ("badlabel.mp4", clip),
            ("badlabel.json", b'{"label": {"name": "run"}}'),
            ("huge.mp4", clip),
            ("huge.cls", b"99999999999"),
            ("latin.mp4", clip),
            ("latin.txt", b"caf\xe9"),
            ("ours.mp4", clip),
            (
                "ours.json",
                b'{"labels": [], "classes": [], "start": null, "end": null, "start_frame": 5, "end_frame": 9999}',
            ),
        ]
        index = write_index(write_tar(tmp_path / "a.tar", tar))
        assert rows_of(index).keys() == {"good"}
        causes = causes_of(index)
        assert causes.keys() == {name.partition(".")[0] for name, _ in tar} - {"good"}
        assert causes["notes"] == "it has no video, only txt"
        assert causes["two"] == "it has 2 videos (mp4, webm)"
        assert "label" in causes["badlabel"]
        assert "UTF-8" in causes["latin"]
        assert "frames from 5 up to 9999" in causes["ours"]
        assert causes_of(read_index(tmp_path / "a.tar")) == causes

    @pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
    def test_keys_are_those_of_webdataset(self, clip: bytes, tmp_path: Path, format: int) -> None:
        folder = "d" * 90
        keys = ["a", "sub/dir.with.dots/b", f"{folder}/{'n' * 90}", "été" if format != tarfile.USTAR_FORMAT else "e"]
        members = [(f"{key}.{suffix}", data) for key in keys for suffix, data in (("clip.mp4", clip), ("cls", b"1"))]
        shard = write_tar(
            tmp_path / "a.tar", [*members, ("._a.mp4", b"resource fork"), ("README", b"no suffix")], format
        )
        index = rows_of(write_index(shard))
        theirs = list(webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False))
        assert list(index) == [sample["__key__"] for sample in theirs if "clip.mp4" in sample] == keys
        data = shard.read_bytes()
        for row in index.values():
            assert data[row["offset"] :][: row["size"]] == clip

    def test_links_and_folders_are_no_videos(self, clip: bytes, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name, kind in (
                ("link.mp4", tarfile.SYMTYPE),
                ("hard.mp4", tarfile.LNKTYPE),
                ("folder.mp4", tarfile.DIRTYPE),
            ):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "/etc/passwd"
                tar.addfile(info)
            info = tarfile.TarInfo("../../up.mp4")
            info.size = len(clip)
            tar.addfile(info, io.BytesIO(clip))
        assert list(rows_of(write_index(tmp_path / "a.tar"))) == ["../../up"]  # a name and no more
        assert {path.name for path in tmp_path.rglob("*")} == {"a.tar", "a.index.arrow"}

    def test_an_empty_tar_has_an_empty_index(self, tmp_path: Path) -> None:
        assert write_index(write_tar(tmp_path / "a.tar", [])).table.num_rows == 0


class TestBrokenTars:
    def refused(self, shard: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            write_index(shard)
        assert not index_path(shard).exists()

    @pytest.mark.parametrize("where", ["in a header", "in a video", "between two members", "before the end mark"])
    def test_cut_short(self, clip: bytes, tmp_path: Path, where: str) -> None:
        shard = write_tar(tmp_path / "a.tar", [("a.mp4", clip), ("b.mp4", clip)])
        with tarfile.open(shard) as tar:
            second = tar.getmembers()[1]
        at = {
            "in a header": second.offset + 100,
            "in a video": second.offset_data + 100,
            "between two members": second.offset,
            "before the end mark": second.offset_data + -(-second.size // 512) * 512,
        }
        shard.write_bytes(shard.read_bytes()[: at[where]])
        self.refused(shard, "cut short")

    def test_a_damaged_header(self, clip: bytes, tmp_path: Path) -> None:
        shard = write_tar(tmp_path / "a.tar", [("a.mp4", clip), ("b.mp4", clip)])
        with tarfile.open(shard) as tar:
            offset = tar.getmembers()[1].offset
        data = bytearray(shard.read_bytes())
        data[offset : offset + 512] = b"x" * 512
        shard.write_bytes(data)
        self.refused(shard, f"damaged after byte {offset:,}")

    def test_compressed(self, clip: bytes, tmp_path: Path) -> None:
        shard = write_tar(tmp_path / "a.tar", [("a.mp4", clip)])
        shard.write_bytes(gzip.compress(shard.read_bytes()))
        self.refused(shard, "is compressed: unpack it")

    def test_no_tar(self, tmp_path: Path) -> None:
        (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
        self.refused(tmp_path / "a.tar", "is no tar")
        self.refused(tmp_path / "missing.tar", "cannot be read")


class TestOpening:
    def test_a_video_opens_with_its_scan(self, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        split = ShardedSplit(dataset, "train")
        for index in range(len(split)):
            span = split.span(index)
            with open_video(span) as fresh, monkeypatch.context() as patch:
                patch.setattr("tubelet.video.opening.scan_source", None)  # it would be called for a second pass
                with split.open(index) as video:
                    assert video.info == fresh.info
                    assert video.frames([3, 0]).equal(fresh.frames([3, 0]))

    def test_a_copy_maps_the_same_indices(self, dataset: Path) -> None:
        split = ShardedSplit(dataset, "train")
        packed = pickle.dumps(split)
        assert len(packed) < 500
        again = pickle.loads(packed)  # noqa: S301  # our own
        assert [again.key(i) for i in range(len(again))] == [split.key(i) for i in range(len(split))]

    def test_another_shard_of_the_same_size(self, dataset: Path, tmp_path: Path) -> None:
        shutil.copytree(dataset, tmp_path / "copy")
        split = ShardedSplit(tmp_path / "copy", "train")
        shard = split.span(0).path
        with tarfile.open(shard) as tar:
            members = [(f"x{member.name}", tar.extractfile(member).read()) for member in tar]
        size = shard.stat().st_size
        write_tar(shard, members)
        shard.write_bytes(shard.read_bytes().ljust(size, b"\0")[:size])
        with pytest.raises(VideoError, match="is not the tar that was indexed"):
            split.open(0)

    def test_a_shard_that_is_gone(self, dataset: Path, tmp_path: Path) -> None:
        shutil.copytree(dataset, tmp_path / "copy")
        split = ShardedSplit(tmp_path / "copy", "train")
        split.span(0).path.unlink()
        with pytest.raises(VideoError, match="cannot be read"):
            split.open(0)


def test_videos_are_numbered_over_all_shards(clip: bytes, tmp_path: Path) -> None:
    """Also over those that have none."""
    for number, count in enumerate((0, 2, 0, 0, 1, 0)):
        write_index(write_tar(tmp_path / f"{number}.tar", [(f"{number}-{i}.mp4", clip) for i in range(count)]))
    split = ShardedSplit(f"{tmp_path}/*.tar", "train")
    assert [split.key(i) for i in range(len(split))] == ["1-0", "1-1", "4-0"]
    assert [split.span(i).path.name for i in range(len(split))] == ["1.tar", "1.tar", "4.tar"]


class TestIndicesThatCannotBeUsed:
    @pytest.fixture
    def shard(self, clip: bytes, tmp_path: Path) -> Path:
        shard = write_tar(tmp_path / "a.tar", [("a.mp4", clip)])
        write_index(shard)
        return shard

    def refused(self, shard: Path, message: str) -> None:
        with pytest.raises(DataError, match=message) as error:
            read_index(shard)
        assert f"`tubelet index {shard.parent}` writes it" in str(error.value)

    def test_none(self, shard: Path) -> None:
        index_path(shard).unlink()
        self.refused(shard, "index is missing")

    def test_of_an_older_tubelet(self, shard: Path) -> None:
        index_path(shard).rename(shard.with_suffix(".index.parquet"))
        self.refused(shard, "index of an older tubelet")

    def test_of_another_version(self, shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("tubelet.datasets.shards.index.INDEX_VERSION", 9)
            write_index(shard)
        self.refused(shard, "of version 9")

    def test_cut_short(self, shard: Path) -> None:
        data = index_path(shard).read_bytes()
        self.refused_after(shard, data[: len(data) // 2], "cannot be read")
        self.refused_after(shard, b"", "cannot be read")

    def refused_after(self, shard: Path, data: bytes, message: str) -> None:
        index_path(shard).unlink()  # the old one is mapped
        index_path(shard).write_bytes(data)
        self.refused(shard, message)

    def test_the_same_tar_gives_the_same_index(self, shard: Path) -> None:
        before = index_path(shard).read_bytes()
        write_index(shard)
        assert index_path(shard).read_bytes() == before
