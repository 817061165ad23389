"""Published weights: records that are whole and build their models, and downloads that are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from tubelet.backbones import (
    ClipSpec,
    PublishedWeights,
    WeightsError,
    create_model,
    create_published,
    download,
    fetch,
    list_models,
    load_model,
    load_weights,
    published,
    published_record,
    published_weights,
    save_model,
)

BODY = bytes(range(256)) * 2048  # half a MB
SHA256 = hashlib.sha256(BODY).hexdigest()
CLIP = ClipSpec(2, 4, 24, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (4, 3), "dense")
TINY = {"dim": 24, "depth": 1}


@dataclass
class Server:
    """Serves `body` at every path; `faults` are used up, one a request."""

    body: bytes = BODY
    etag: str | None = '"1"'
    kind: str = "application/octet-stream"
    faults: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked[self.path] += 1
            state.ranges.append(self.headers.get("Range"))
            fault = state.faults.pop(0) if state.faults else ""
            if fault.isdigit():
                self.send_error(int(fault))
                return
            if fault == "redirect":
                self.send_response(302)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                return
            start = 0
            fresh = self.headers.get("If-Range") in (None, state.etag)
            if self.headers.get("Range") and fresh and fault != "no ranges":
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(state.body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.body) - 1}/{len(state.body)}")
            if fault != "no length":
                self.send_header("Content-Length", str(len(state.body) - start))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.send_header("Content-Type", state.kind)
            self.end_headers()
            self.wfile.write(state.body[start : start + 200_000] if fault == "break" else state.body[start:])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_address[1]}/file.pth"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield state
        running.shutdown()
        thread.join()


def record(url: str | None, sha256: str | None = None, **fields: object) -> PublishedWeights:
    common = {"source": "https://example.org", "licence": "unknown", "dataset": "made up", "classes": 3, "clip": CLIP}
    named = {"id": "some_weights", "model": "timesformer_tiny", "arguments": TINY, "file": "file.pth"}
    return PublishedWeights(**{**common, **named, "url": url, "sha256": sha256, **fields})


def refused(one: PublishedWeights, cache: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        fetch(one, cache)
    assert not (cache / one.id / one.file).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestDownload:
    @pytest.mark.parametrize("sha256", [None, SHA256[:8], SHA256])
    def test_a_file_comes_once(self, server: Server, sha256: str | None, tmp_path: Path) -> None:
        one = record(server.url, sha256)
        path = fetch(one, tmp_path)
        assert path == tmp_path / "some_weights" / "file.pth"
        assert path.read_bytes() == BODY
        assert path.with_name("file.pth.sha256").read_text() == f"{SHA256}  file.pth\n"
        assert fetch(one, tmp_path) == path
        assert server.asked == {"/file.pth": 1}
        assert not list(path.parent.glob("*partial*"))

    @pytest.mark.parametrize("fault", ["redirect", "no length"])
    def test_what_servers_do(self, server: Server, fault: str, tmp_path: Path) -> None:
        server.faults = [fault]
        assert fetch(record(server.url, SHA256), tmp_path).read_bytes() == BODY

    def test_a_broken_transfer_goes_on(self, server: Server, tmp_path: Path) -> None:
        server.faults = ["break", "break"]
        assert fetch(record(server.url, SHA256), tmp_path).read_bytes() == BODY
        assert server.ranges == [None, "bytes=200000-", "bytes=400000-"]

    def test_a_later_call_goes_on_where_an_earlier_one_gave_up(self, server: Server, tmp_path: Path) -> None:
        server.faults = ["break", "503"]
        said = refused(record(server.url, SHA256), tmp_path)
        assert "503" in said
        assert "run again to go on after 0.2 MB" in said
        assert fetch(record(server.url, SHA256), tmp_path).read_bytes() == BODY
        assert server.ranges == [None, "bytes=200000-", "bytes=200000-"]

    @pytest.mark.parametrize("change", ["no ranges", "another file", "no version"])
    def test_two_files_are_never_joined(self, server: Server, change: str, tmp_path: Path) -> None:
        server.etag = None if change == "no version" else server.etag
        server.faults = ["break", "503"]
        refused(record(server.url), tmp_path)
        if change == "another file":
            server.body, server.etag = BODY[::-1], '"2"'
        server.faults = [change]
        assert fetch(record(server.url), tmp_path).read_bytes() == server.body

    def test_a_file_that_shrank_is_fetched_anew(self, server: Server, tmp_path: Path) -> None:
        server.faults = ["break", "503"]
        refused(record(server.url), tmp_path)
        server.body = BODY[:1000]
        assert fetch(record(server.url), tmp_path).read_bytes() == BODY[:1000]

    def test_a_wrong_checksum_is_refused_and_nothing_kept(self, server: Server, tmp_path: Path) -> None:
        said = refused(record(server.url, "00000000"), tmp_path)
        assert f"its sha256 begins with {SHA256[:8]} instead of 00000000" in said
        assert [path.name for path in (tmp_path / "some_weights").iterdir()] == [".file.pth.lock"]

    def test_a_connection_that_always_breaks_is_told(self, server: Server, tmp_path: Path) -> None:
        server.body = BODY * 4
        server.faults = ["break"] * 9
        said = refused(record(server.url), tmp_path)
        assert "broke off after 800000 of 2097152 bytes" in said
        assert "run again to go on after 0.8 MB" in said

    @pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
    def test_a_page_is_no_file(self, server: Server, kind: str, tmp_path: Path) -> None:
        server.kind, server.body = kind, b"<!DOCTYPE html><html>Google Drive can't scan this file for viruses"
        said = refused(record(server.url), tmp_path)
        assert "answered with a web page instead of the file" in said
        assert f"put it at {tmp_path / 'some_weights' / 'file.pth'}" in said

    def test_404(self, server: Server, tmp_path: Path) -> None:
        server.faults = ["404"]
        said = refused(record(server.url), tmp_path)
        assert f"{server.url} cannot be downloaded (the server says 404 Not Found)" in said
        assert server.asked == {"/file.pth": 1}

    def test_offline(self, tmp_path: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{probe.getsockname()[1]}/file.pth"
        said = refused(record(url), tmp_path)
        assert f"{url} cannot be downloaded (connection refused)" in said
        assert f"or put the file at {tmp_path / 'some_weights' / 'file.pth'} by hand" in said

    def test_a_server_that_says_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "TIMEOUT", 0.2)
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            said = refused(record(f"http://127.0.0.1:{silent.getsockname()[1]}/file.pth"), tmp_path)
        assert "timed out" in said

    def test_a_full_disk(self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = namedtuple("usage", "total used free")(10, 10, 0)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        said = refused(record(server.url), tmp_path)
        assert f"no room left in {tmp_path / 'some_weights'}; free some, or set TUBELET_HOME" in said

    def test_a_folder_that_cannot_be_written(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(WeightsError, match=r"cannot be written \(.*\); set TUBELET_HOME"):
            fetch(record(server.url), tmp_path / "file")

    @pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/file.pth"])
    def test_only_the_web_is_asked(self, url: str, tmp_path: Path) -> None:
        assert "no http(s) address" in refused(record(url), tmp_path)

    def test_addresses_of_pages_become_those_of_files(self) -> None:
        direct = download._direct
        assert direct("https://www.dropbox.com/s/g5/a.pyth?dl=0") == "https://www.dropbox.com/s/g5/a.pyth?dl=1"
        page = "https://drive.google.com/file/d/1-kit_VTk/view?usp=sharing"
        assert direct(page) == "https://drive.google.com/uc?export=download&id=1-kit_VTk"
        assert direct("https://a.org/b.pth") == "https://a.org/b.pth"

    def test_redirections_stay_encrypted(self) -> None:
        follow = download._Redirects().redirect_request
        secure = urllib.request.Request("https://a.org/b.pth")
        assert follow(secure, None, 302, "", {}, "https://c.org/b.pth").full_url == "https://c.org/b.pth"
        for elsewhere in ("http://c.org/b.pth", "ftp://c.org/b.pth"):
            with pytest.raises(urllib.error.URLError, match="not encrypted"):
                follow(secure, None, 302, "", {}, elsewhere)

    def test_a_page_in_the_middle_costs_nothing(self, server: Server, tmp_path: Path) -> None:
        server.faults = ["break", "503"]
        refused(record(server.url), tmp_path)
        server.body, server.kind, server.etag = b"<html>sign in", "text/html", '"2"'
        assert "web page" in refused(record(server.url), tmp_path)
        server.body, server.kind, server.etag = BODY, "application/octet-stream", '"1"'
        assert fetch(record(server.url), tmp_path).read_bytes() == BODY
        assert server.ranges[-1] == "bytes=200000-"

    def test_a_cache_that_others_filled_may_be_closed(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = fetch(record(server.url), tmp_path)
        path.with_name("file.pth.sha256").unlink()

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
        monkeypatch.setattr(Path, "write_text", refuse)
        assert fetch(record(server.url, SHA256), tmp_path) == path

    def test_two_processes_at_once(self, server: Server, tmp_path: Path) -> None:
        server.body = BODY * 20
        code = (
            "import sys; from pathlib import Path; from tubelet.backbones.download import download\n"
            "download(sys.argv[1], Path(sys.argv[2]))"
        )
        path = tmp_path / "file.pth"
        both = [subprocess.Popen([sys.executable, "-c", code, server.url, str(path)]) for _ in range(2)]
        assert [one.wait(60) for one in both] == [0, 0]
        assert path.read_bytes() == server.body
        assert server.asked == {"/file.pth": 1}


class TestTheCache:
    def test_a_file_damaged_later_is_found(self, server: Server, tmp_path: Path) -> None:
        path = fetch(record(server.url), tmp_path)
        with path.open("r+b") as file:
            file.seek(1000)
            file.write(b"x")
        with pytest.raises(WeightsError, match=r"was changed or damaged since .* remove it, and it is fetched again"):
            fetch(record(server.url), tmp_path)
        path.unlink()
        assert fetch(record(server.url), tmp_path).read_bytes() == BODY

    def test_a_file_put_there_by_hand_is_taken(self, tmp_path: Path) -> None:
        one = record(None, SHA256[:8])
        with pytest.raises(WeightsError, match=r"has no address .* find file.pth on https://example.org and put it at"):
            fetch(one, tmp_path)
        path = tmp_path / one.id / one.file
        path.parent.mkdir()
        path.write_bytes(BODY)
        assert fetch(one, tmp_path) == path
        path.write_bytes(BODY[1:])
        path.with_name("file.pth.sha256").unlink()
        with pytest.raises(WeightsError, match="is not the published file"):
            fetch(one, tmp_path)

    def test_where_it_lies(self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one, tail = record(server.url), Path("some_weights", "file.pth")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.delenv("TUBELET_HOME", raising=False)
        assert fetch(one) == tmp_path / "home" / ".cache" / "tubelet" / "weights" / tail
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert fetch(one) == tmp_path / "xdg" / "tubelet" / "weights" / tail
        monkeypatch.setenv("TUBELET_HOME", str(tmp_path / "ours"))
        assert fetch(one) == tmp_path / "ours" / "weights" / tail


class TestLoading:
    @pytest.fixture
    def offered(self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
        """A published model, with another clip than its name has."""
        model = create_model("timesformer_tiny", num_classes=3, frames=2, size=24, **TINY)
        torch.save({"model_state": model.state_dict()}, tmp_path / "file.pth")
        server.body = (tmp_path / "file.pth").read_bytes()
        known = {one.id: one for one in (record(server.url), record(server.url, id="unsaid", classes=None))}
        monkeypatch.setattr(published, "_records", lambda: known)
        monkeypatch.setenv("TUBELET_HOME", str(tmp_path / "cache"))
        return model.eval()

    @pytest.mark.parametrize("name", ["some_weights", "unsaid"])
    def test_by_id(self, name: str, offered: torch.nn.Module, tmp_path: Path) -> None:
        model = create_published(name).eval()
        assert model.clip == CLIP
        clip = torch.randn(1, 3, 2, 24, 24)
        assert torch.equal(model(clip), offered(clip))
        report = load_weights(create_model(**model.config), name)
        assert report.source == str(tmp_path / "cache" / "weights" / name / "file.pth")
        assert len(report.loaded) == report.total

    def test_the_clip_is_saved_with_the_model(self, offered: torch.nn.Module, tmp_path: Path) -> None:
        model = create_published("some_weights", frames=4)
        assert model.clip == replace(CLIP, frames=4)
        save_model(model, tmp_path / "saved")
        assert "clip" in json.loads((tmp_path / "saved" / "config.json").read_text())
        assert load_model(tmp_path / "saved").clip == model.clip

    def test_a_path_goes_before_an_id(
        self, offered: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "some_weights").write_bytes(b"Not Found")
        with pytest.raises(WeightsError, match="begins with b'Not Found'"):
            load_weights(offered, "some_weights")

    def test_an_id_that_is_none(self, offered: torch.nn.Module) -> None:
        with pytest.raises(WeightsError, match=r"there is no file some_weihts, nor .* did you mean some_weights"):
            load_weights(offered, "some_weihts")
        with pytest.raises(WeightsError, match="no published weights 'some_weihts'; did you mean some_weights"):
            create_published("some_weihts")


class TestTheRecords:
    def test_ids_are_unique(self) -> None:
        text = Path(published.__file__).with_name("published.yaml").read_text()
        assert text.count("- {id: ") == len(published_weights())

    @pytest.mark.parametrize("one", published_weights(), ids=lambda one: one.id)
    def test_is_whole(self, one: PublishedWeights) -> None:
        assert one.source.startswith("http")
        assert one.file
        assert not set(one.file) & set("/?=& ")
        if one.url is not None:
            assert urlsplit(one.url).scheme in ("http", "https")
            assert urlsplit(one.url).hostname
        assert one.sha256 is None or (len(one.sha256) in (8, 64) and int(one.sha256, 16))
        if one.sha256 and len(one.sha256) == 8:
            assert one.sha256 in one.file
        for score in (one.top1, one.top5):
            assert score is None or 30 < score < 100
        assert one.top1 is None or one.top5 is None or one.top1 < one.top5
        assert one.classes is None or one.classes > 10
        assert len(one.clip.mean) == len(one.clip.std) == 3
        assert one.clip.sampling in ("dense", "segments")

    @pytest.mark.parametrize("name", sorted({one.model for one in published_weights()}))
    def test_builds_its_model(self, name: str) -> None:
        alike = {json.dumps([one.arguments, one.clip.frames, one.clip.size]): one for one in published_weights(name)}
        for one in alike.values():
            with torch.device("meta"):
                model = create_model(**one.call)
            assert (model.clip.frames, model.clip.size) == (one.clip.frames, one.clip.size)
            assert one.classes in (None, model.num_classes)
            assert not [value for value in one.arguments.values() if isinstance(value, str) and value[:1].isdigit()]

    def test_every_family_has_some(self) -> None:
        families = {"timesformer", "vivit_b", "video_swin_b", "xvit", "uniformer_s", "i3d", "i3d_r50", "slow_r50"}
        families |= {"r2plus1d_34", "ip_csn_152", "ir_csn_152", "r3d_18", "mc3_18", "c3d", "p3d_199"}
        families |= {"resnet_50", "resnext_50_32x4d", "wide_resnet_50", "googlenet", "vgg11", "vit_b_16", "swin_b"}
        assert families <= {one.model for one in published_weights()}
        assert {one.model for one in published_weights()} <= {*list_models(), *list_models(kind="image")}

    def test_what_is_known_of_one(self) -> None:
        one = published_record("timesformer_hr_k600")
        assert one.call == {"name": "timesformer_hr", "num_classes": 600, "frames": 16, "size": 448}
        assert one.url.startswith("https://www.dropbox.com/s/ft1e92g2vhvxecv/")
        assert one.file == "TimeSformer_divST_16x16_448_K600.pyth"
        assert (one.top1, one.top5, one.licence) == (81.8, 95.8, "CC-BY-NC-4.0")
        with pytest.raises(WeightsError, match="did you mean timesformer_hr_k600"):
            published_record("timesformer_hr_k60")


def test_nothing_is_read_or_asked_when_the_package_is_imported() -> None:
    code = (
        "import tubelet.backbones.published as p\n"
        "assert p._records.cache_info().currsize == 0\n"
        "import tubelet.backbones; assert p._records.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "HOME": "/nonexistent"}, timeout=60)
