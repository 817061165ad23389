"""Datasets wherever they are: folders and tars by name, here, over HTTP, through fsspec, out of a command."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import fsspec
import pytest
import torch

from tubelet.datasets import (
    ClipSettings,
    DataError,
    Position,
    ShardedSplit,
    TrainOrder,
    open_dataset,
    read_card,
    train_batches,
)
from tubelet.datasets.shards.index import index_path
from tubelet.datasets.shards.patterns import expand, split_of


class Server:
    """A web server of one folder that counts what is asked of it, and can be slow."""

    def __init__(self, folder: Path):
        self.folder, self.asked, self.delay = folder, Counter[str](), 0.0
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked[Path(self.path).suffix] += 1
                time.sleep(server.delay)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves a copy of the dataset at URL/data."""
    monkeypatch.setattr("tubelet.datasets.shards.cache._PAUSE_S", 0)
    shutil.copytree(dataset, tmp_path / "www" / "data")
    server = Server(tmp_path / "www")
    yield server
    server.stop()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def contents(split: ShardedSplit) -> list[tuple[str, int]]:
    return [(split.key(i), int(split.labels[i])) for i in range(len(split))]


def files_in(cache: Path, pattern: str) -> list[Path]:
    return sorted(path for path in cache.rglob(pattern) if not path.name.endswith(".lock"))


class TestNames:
    @pytest.mark.parametrize(
        ("name", "split"),
        [
            ("k400-train-000000.tar", "train"),
            ("data/val/000.tar", "val"),
            ("s3://bucket/validation_0001.tar", "val"),
            ("http://host/train/test-3.tar?token=val", "test"),
            ("TRAINING.00.tar", "train"),
            ("train/sub/0.tar", None),
            ("test_run/0.tar", None),
            ("test-bench-train-0.tar", "train"),
            ("constraint-0.tar", None),
            ("0.tar", None),
            ("pipe:curl -s http://host/val-0.tar | cat", "val"),
            ("pipe:ssh train cat x", None),
        ],
    )
    def test_split(self, name: str, split: str | None) -> None:
        assert split_of(name) == split

    def test_patterns(self, tmp_path: Path) -> None:
        for name in ("a-00.tar", "a-01.tar", "a-01.index.arrow", "sub/b.tar"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        found = lambda pattern: [  # noqa: E731
            Path(path).relative_to(tmp_path).as_posix() for path in expand(f"{tmp_path}/{pattern}")
        ]
        assert found("a-{00..01}.tar") == found("a-*") == found("a-0?.tar") == ["a-00.tar", "a-01.tar"]
        assert found("{a-01,sub/b}.tar") == ["a-01.tar", "sub/b.tar"]
        assert found("**/*.tar") == ["a-00.tar", "a-01.tar", "sub/b.tar"]
        assert expand("pipe:cat {1..2}.tar") == ["pipe:cat 1.tar", "pipe:cat 2.tar"]
        assert expand("s3://b/{a,c}.tar") == ["s3://b/a.tar", "s3://b/c.tar"]
        for pattern, message in (("b-*.tar", "no tar"), ("{a.tar", "braces"), ("a.tar.gz", "is not a .tar")):
            with pytest.raises(DataError, match=message):
                found(pattern)


class TestHere:
    @pytest.mark.parametrize("pattern", ["*.tar", "*-{train,val}-*.tar", "*-train-*.tar"])
    def test_tars_of_a_dataset_are_a_part_of_it(self, dataset: Path, pattern: str) -> None:
        some, whole = ShardedSplit(f"{dataset}/{pattern}", "train"), ShardedSplit(dataset, "train")
        assert contents(some) == contents(whole)
        assert some.card.splits["train"] == whole.card.splits["train"]
        assert ("val" in some.card.splits) == (pattern != "*-train-*.tar")

    def test_a_single_tar(self, dataset: Path) -> None:
        whole = ShardedSplit(dataset, "train")
        shard = whole.card.splits["train"].shards[1]
        one = ShardedSplit(dataset / shard.file, "train")
        start = whole.card.splits["train"].shards[0].videos
        assert contents(one) == contents(whole)[start : start + shard.videos]
        assert one.classes == whole.classes
        assert sum(one.card.splits["train"].per_class.values()) == len(one)
        with pytest.raises(DataError, match="no split 'val'; it has train"):
            ShardedSplit(dataset / shard.file, "val")

    def test_tars_without_a_card(self, dataset: Path, tmp_path: Path) -> None:
        for path in dataset.glob("*-train-*"):
            shutil.copy(path, tmp_path / path.name.replace("-train-", "-"))
        for asked in ("train", "test"):  # which split they are, no name tells
            assert contents(ShardedSplit(f"{tmp_path}/*.tar", asked)) == contents(ShardedSplit(dataset, "train"))
        assert (
            ShardedSplit(f"{tmp_path}/*.tar", "train").classes == read_card(dataset).classes
        )  # from the .json of each
        with pytest.raises(DataError, match=r"holds no card.json.*`tubelet index"):
            ShardedSplit(tmp_path, "train")

    def test_the_card_may_lie_above(self, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        card = json.loads((dataset / "card.json").read_text())
        for name, split in card["splits"].items():
            for shard in split["shards"]:
                for path in (dataset / shard["file"], index_path(dataset / shard["file"])):
                    (tmp_path / name).mkdir(exist_ok=True)
                    shutil.copy(path, tmp_path / name)
                shard["file"] = f"{name}/{shard['file']}"
        card["classes"] = ["x", *card["classes"]]
        (tmp_path / "card.json").write_text(json.dumps(card))
        for place, data in (("/", f"{tmp_path}/*/*.tar"), (tmp_path, "train/*.tar"), (tmp_path / "train", "*.tar")):
            monkeypatch.chdir(place)
            split = ShardedSplit(data, "train")
            assert split.classes[0] == ("x" if place != tmp_path / "train" else "anticlockwise")
            assert len(split) == card["splits"]["train"]["videos"]

    def test_a_card_of_something_else(self, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        for path in (shard := sorted(dataset.glob("*-val-*.tar"))[0], index_path(shard)):
            shutil.copy(path, tmp_path)
        (tmp_path / "card.json").write_text('{"name": "a model"}')
        assert len(ShardedSplit(tmp_path / shard.name, "val"))
        assert "is not the card of a tubelet dataset" in capsys.readouterr().err

    def test_the_index_of_another_shard(self, dataset: Path, tmp_path: Path) -> None:
        shutil.copytree(dataset, tmp_path / "copy")
        first, second = sorted((tmp_path / "copy").glob("*-train-*.index.arrow"))[:2]
        shutil.copy(second, first)
        with pytest.raises(DataError, match="is the index of another tar"):
            ShardedSplit(tmp_path / "copy", "train")

    @pytest.mark.parametrize("name", ["../a.tar", "/etc/a.tar", "a::file:///b.tar", "x/../../a.tar", "a.txt", 3])
    def test_a_card_cannot_name_what_is_not_below_it(self, dataset: Path, tmp_path: Path, name: object) -> None:
        card = json.loads((dataset / "card.json").read_text())
        card["splits"]["train"]["shards"][0]["file"] = name
        (tmp_path / "card.json").write_text(json.dumps(card))
        with pytest.raises(DataError, match="is incomplete"):
            ShardedSplit(tmp_path, "train")


class TestOverHttp:
    def test_only_what_is_needed_is_fetched(self, server: Server, dataset: Path, cache: Path) -> None:
        ours, theirs = ShardedSplit(f"{server.url}/data/", "train", cache), ShardedSplit(dataset, "train")
        assert contents(ours) == contents(theirs)
        shards = len(theirs.card.splits["train"].shards)
        assert server.asked == {".json": 1, ".arrow": shards}
        for _ in range(2):
            with ours.open(0) as video, theirs.open(0) as same:
                assert video.frames([0, 5]).equal(same.frames([0, 5]))
            assert server.asked[".tar"] == 1
        ShardedSplit(f"{server.url}/data", "train", cache).open(0).close()
        assert server.asked == {".json": 2, ".arrow": shards, ".tar": 1}

    def test_workers_fetch_for_each_other(self, server: Server, dataset: Path, cache: Path) -> None:
        def clips(data: str | Path) -> list[torch.Tensor]:
            split = ShardedSplit(data, "train", cache)
            order = TrainOrder.fitting(len(split), 0, 4, 1, 1)
            batches = train_batches(split, ClipSettings(2, 1, 16), order, Position(0, 0), 0, 2)
            return [batch.clips for batch in islice(batches, 4)]

        assert all(map(torch.equal, clips(f"{server.url}/data"), clips(dataset)))
        assert server.asked[".tar"] == len(read_card(dataset).splits["train"].shards)

    def test_two_processes_that_ask_at_once(self, server: Server, cache: Path) -> None:
        split = ShardedSplit(f"{server.url}/data", "train", cache)
        server.delay = 0.5
        context = multiprocessing.get_context("fork")
        both = [context.Process(target=split.open, args=(0,)) for _ in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
        assert [process.exitcode for process in both] == [0, 0]
        assert server.asked[".tar"] == 1

    @pytest.mark.parametrize("pattern", ["data/card", "cards/none"])
    def test_patterns(self, server: Server, dataset: Path, cache: Path, pattern: str) -> None:
        """With the card beside them, and without."""
        if pattern == "cards/none":
            (server.folder / "data" / "card.json").unlink()
        whole = ShardedSplit(dataset, "train")
        names = ",".join(shard.file.removesuffix(".tar") for shard in whole.card.splits["train"].shards)
        some = ShardedSplit(f"{server.url}/data/{{{names}}}.tar", "train", cache)
        assert contents(some) == contents(whole)
        assert server.asked[".tar"] == 0
        some.open(3).close()
        assert server.asked[".tar"] == 1

    def test_shards_without_an_index(
        self, server: Server, dataset: Path, cache: Path, capsys: pytest.CaptureFixture
    ) -> None:
        for file in (server.folder / "data").glob("*.arrow"):
            file.unlink()
        (server.folder / "data" / "card.json").unlink()
        data = f"{server.url}/data/{{{','.join(path.stem for path in sorted(dataset.glob('*-val-*.tar')))}}}.tar"
        split = ShardedSplit(data, "val", cache)
        count = len(list(dataset.glob("*-val-*.tar")))
        assert f"{count} shards have no index" in capsys.readouterr().err
        assert contents(split) == contents(ShardedSplit(dataset, "val"))
        assert contents(ShardedSplit(data, "val", cache)) == contents(split)
        assert server.asked[".tar"] == count
        assert not capsys.readouterr().err

    def test_an_index_that_cannot_be_used_is_written_anew(self, server: Server, dataset: Path, cache: Path) -> None:
        victim = sorted((server.folder / "data").glob("*-val-*.arrow"))[0]
        victim.write_bytes(b"<html>not what you wanted</html>")
        assert contents(ShardedSplit(f"{server.url}/data", "val", cache)) == contents(ShardedSplit(dataset, "val"))
        assert server.asked[".tar"] == 1

    def test_a_shard_that_was_damaged(self, server: Server, cache: Path) -> None:
        split = ShardedSplit(f"{server.url}/data", "train", cache)
        shard = server.folder / "data" / split.card.splits["train"].shards[0].file
        shard.write_bytes(shard.read_bytes()[:-1] + b"x")
        with pytest.raises(
            DataError, match=rf"{server.url}/data/{shard.name}: is not the file that its dataset tells of"
        ):
            split.open(0)
        assert not files_in(cache, "*.tar*")

    def test_a_dataset_that_was_made_again(self, server: Server, dataset: Path, cache: Path) -> None:
        """Other shards under the same names: what is in the cache of the old ones is not taken for them."""
        ShardedSplit(f"{server.url}/data", "train", cache).open(0).close()
        folder = server.folder / "data"
        card = json.loads((folder / "card.json").read_text())
        one, other = (card["splits"]["train"]["shards"][i] for i in (0, 1))
        for pattern in ("{}.tar", "{}.index.arrow"):
            files = [folder / pattern.format(shard["file"].removesuffix(".tar")) for shard in (one, other)]
            data = [file.read_bytes() for file in files]
            for file, content in zip(files, data[::-1], strict=True):
                file.write_bytes(content)
        one["file"], other["file"] = other["file"], one["file"]
        (folder / "card.json").write_text(json.dumps(card))
        again = ShardedSplit(f"{server.url}/data", "train", cache)
        assert contents(again) == contents(ShardedSplit(dataset, "train"))
        again.open(0).close()

    def test_offline(self, server: Server, cache: Path, capsys: pytest.CaptureFixture) -> None:
        split = ShardedSplit(f"{server.url}/data", "train", cache)
        split.open(0).close()
        server.stop()
        again = ShardedSplit(f"{server.url}/data", "train", cache)
        assert "Going on with the card in the cache" in capsys.readouterr().err
        again.open(0).close()
        last = again.card.splits["train"].shards[-1].file
        with pytest.raises(DataError, match=rf"{server.url}/data/{last}: cannot be fetched"):
            again.open(len(again) - 1)
        with pytest.raises(DataError, match=rf"{server.url}/data/card.json: cannot be fetched"):
            ShardedSplit(f"{server.url}/data", "train", cache / "other")

    def test_what_is_not_there(self, server: Server, cache: Path) -> None:
        with pytest.raises(DataError, match=r"nothing/card.json: there is none.*Name its shards"):
            open_dataset(f"{server.url}/nothing", cache)
        with pytest.raises(DataError, match=r"nothing/0.tar: there is no such file"):
            open_dataset(f"{server.url}/nothing/0.tar", cache)


class TestThroughFsspec:
    @pytest.fixture
    def bucket(self, dataset: Path) -> Iterator[str]:
        files = fsspec.filesystem("memory")
        for path in dataset.iterdir():
            files.pipe_file(f"/bucket/data/{path.name}", path.read_bytes())
        yield "memory://bucket/data"
        files.rm("/bucket", recursive=True)

    @pytest.mark.parametrize("name", ["", "/*-train-*.tar", "/*.tar"])
    def test_an_object_store(self, bucket: str, dataset: Path, cache: Path, name: str) -> None:
        split = ShardedSplit(bucket + name, "train", cache)
        assert contents(split) == contents(ShardedSplit(dataset, "train"))
        split.open(0).close()
        assert len(files_in(cache, "*.tar")) == 1

    def test_a_pattern_that_fits_nothing(self, bucket: str, cache: Path) -> None:
        with pytest.raises(DataError, match="no tar has a name like this"):
            open_dataset(f"{bucket}/*-dev-*.tar", cache)

    def test_a_protocol_that_nobody_knows(self, cache: Path) -> None:
        with pytest.raises(DataError, match=r"gopher://host/data/card.json: cannot be fetched \(Protocol not known"):
            open_dataset("gopher://host/data", cache)

    def test_a_package_that_is_lacking(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
        with pytest.raises(DataError, match=r"gs://bucket/data/card.json: .*pip install 'tubelet\[remote\]'"):
            open_dataset("gs://bucket/data", cache)

    def test_a_full_disk(self, bucket: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        split = ShardedSplit(bucket, "train", cache)
        monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", full)
        with pytest.raises(DataError, match=r"no room left for it in .* give another folder with --cache"):
            split.open(0)
        assert not files_in(cache, "*.tar*")


def fetch(bucket: str, cache: Path, number: int = 0) -> None:
    ShardedSplit(bucket, "train", cache).open(number).close()


def fetch_elsewhere(bucket: str, cache: Path) -> None:
    """In a process that ends, and with it its use of the dataset."""
    process = multiprocessing.get_context("fork").Process(target=fetch, args=(bucket, cache))
    process.start()
    process.join(60)
    assert process.exitcode == 0


class TestCacheLimit:
    @pytest.fixture
    def buckets(self, dataset: Path) -> Iterator[list[str]]:
        files = fsspec.filesystem("memory")
        for name in "abc":
            for path in dataset.iterdir():
                files.pipe_file(f"/bucket/{name}/{path.name}", path.read_bytes())
        yield [f"memory://bucket/{name}" for name in "abc"]
        files.rm("/bucket", recursive=True)

    @pytest.fixture
    def gigabytes(self, dataset: Path) -> float:
        """Of the shard that `fetch` fetches."""
        return read_card(dataset).splits["train"].shards[0].bytes / 1e9

    def tars(self, cache: Path) -> list[str]:
        return [path.parent.name.split("-")[0][-1] for path in files_in(cache, "*.tar")]

    def test_what_was_used_longest_ago_goes(
        self, buckets: list[str], cache: Path, gigabytes: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TUBELET_CACHE_GB", f"{2.5 * gigabytes:.12f}")
        for name in (0, 1, 0):
            fetch_elsewhere(buckets[name], cache)
        assert self.tars(cache) == ["a", "b"]
        fetch_elsewhere(buckets[2], cache)
        assert self.tars(cache) == ["a", "c"]

    def test_what_is_in_use_stays(
        self,
        buckets: list[str],
        cache: Path,
        gigabytes: float,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture,
    ) -> None:
        monkeypatch.setenv("TUBELET_CACHE_GB", f"{1.5 * gigabytes:.12f}")
        fetch(buckets[0], cache)
        fetch_elsewhere(buckets[1], cache)
        assert self.tars(cache) == ["a", "b"]
        assert "what is left is in use" in capfd.readouterr().err
        fetch_elsewhere(buckets[2], cache)
        assert self.tars(cache) == ["a", "c"]

    def test_without_a_limit_the_disk_keeps_some_room(
        self, buckets: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetch_elsewhere(buckets[0], cache)
        usage = shutil.disk_usage(cache)._replace(free=0)
        monkeypatch.setattr("tubelet.datasets.shards.cache.shutil.disk_usage", lambda _: usage)
        fetch_elsewhere(buckets[1], cache)
        assert self.tars(cache) == ["b"]

    def test_tars_that_it_did_not_fetch_are_not_its_own(
        self, buckets: list[str], dataset: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (cache / "mine").mkdir(parents=True)
        shutil.copy(next(dataset.glob("*.tar")), cache / "mine" / "0.tar")
        monkeypatch.setenv("TUBELET_CACHE_GB", "0")
        fetch_elsewhere(buckets[0], cache)
        assert (cache / "mine" / "0.tar").is_file()

    def test_a_limit_that_is_no_number(self, buckets: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TUBELET_CACHE_GB", "1TB")
        with pytest.raises(DataError, match=r"\$TUBELET_CACHE_GB: is '1TB' where a number of gigabytes is wanted"):
            fetch(buckets[0], cache)


class TestPipes:
    def test_the_output_of_a_command(self, dataset: Path, cache: Path, capfd: pytest.CaptureFixture) -> None:
        shards = sorted(dataset.glob("*-val-*.tar"))
        data = f"pipe:cat {dataset}/{{{','.join(path.stem for path in shards)}}}.tar"
        split = ShardedSplit(data, "val", cache)
        assert "have no index" in capfd.readouterr().err
        assert contents(split) == contents(ShardedSplit(dataset, "val"))
        split.open(0).close()
        assert len(files_in(cache, "*.tar")) == len(shards)

    def test_a_command_that_fails(self, cache: Path) -> None:
        with pytest.raises(DataError, match="ended with code 3"):
            open_dataset("pipe:echo half a tar; exit 3", cache)
        assert not files_in(cache, "*.tar*")

    def test_a_command_that_puts_out_no_tar(self, cache: Path) -> None:
        for _ in range(2):
            with pytest.raises(DataError, match=r"pipe:echo hello: .*is no tar, or cut short"):
                open_dataset("pipe:echo hello", cache)
        assert not files_in(cache, "*.tar")
