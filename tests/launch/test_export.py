"""`tubelet export` as a user starts it, and the Hub: pushed to and loaded from, with stand-ins for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

sys.path.append(str(Path(__file__).parent.parent / "pipeline"))
from embedding_tools import save_run, tiny

from tubelet.backbones import WeightsError, create_model, load_model
from tubelet.launch.evaluate import main as evaluate
from tubelet.launch.export import main as export
from tubelet.pipeline.errors import ConfigError, RunError

COMMIT = "a" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export(["--checkpoint", str(save_run(tiny(), tmp_path / "run")), "--out", str(tmp_path / "folder")])
    return tmp_path / "folder"


def test_an_exported_folder_is_evaluated_to_the_same_scores(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    export(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "folder")])
    results = []
    for source, out in ((checkpoint, ("--out", str(tmp_path / "run.json"))), (tmp_path / "folder", ())):
        evaluate(["--checkpoint", str(source), "--data", str(dataset), "--views", "1x1", "--workers", "0", *out])
        file = Path(out[1]) if out else source / "evaluation-val-1x1.json"
        results.append({**json.loads(file.read_text()), "checkpoint": ""})
    assert results[0] == results[1]


@pytest.mark.slow
def test_the_command(tubelet, tmp_path: Path) -> None:
    run = save_run(tiny(), tmp_path / "run")
    done = tubelet("export", "--checkpoint", run, "--out", tmp_path / "out", "--format", "pt2")
    assert done.code == 0, done.out
    assert "model.pt2: the network's scores on random clips" in done.out
    assert "Warning" not in done.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "about.json",
        "config.json",
        "model.pt2",
    }
    again = tubelet("export", "--checkpoint", run, "--out", tmp_path / "out")
    assert (again.code, again.out.count("\n")) == (1, 1), again.out
    assert "is there already" in again.out


class FakeApi:
    """What of HfApi is used."""

    calls: list[tuple[str, dict[str, Any]]]
    fault: Exception | None

    def __init__(self, **_: Any):
        pass

    def create_repo(self, repo_id: str, **options: Any) -> str:
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))
        return f"https://example.org/{repo_id}"

    def upload_folder(self, **options: Any) -> None:
        if self.fault is not None:
            raise self.fault
        files = {path.name for path in Path(options["folder_path"]).iterdir()}
        self.calls.append(("upload_folder", {**options, "folder_path": files}))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    FakeApi.calls, FakeApi.fault = [], None
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    return FakeApi


def test_pushed(folder: Path, api: type[FakeApi], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--checkpoint", str(folder), "--out", str(tmp_path / "out"), "--push", "owner/my-model", "--private"]
    export(words)
    assert api.calls == [
        ("create_repo", {"repo_id": "owner/my-model", "private": True, "exist_ok": True}),
        (
            "upload_folder",
            {
                "repo_id": "owner/my-model",
                "folder_path": {"README.md", "about.json", "config.json", "model.safetensors"},
                "commit_message": "tubelet export",
            },
        ),
    ]
    assert (
        'https://example.org/owner/my-model: load it with create_model("hf-hub:owner/my-model")'
        in capsys.readouterr().out
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# my-model\n" in card
    assert 'Embedder("hf-hub:owner/my-model")' in card


def test_what_the_hub_refuses_is_one_message_and_the_folder_stays(
    folder: Path, api: type[FakeApi], tmp_path: Path
) -> None:
    api.fault = ConnectionError("403 Forbidden\nmore")
    words = ["--checkpoint", str(folder), "--out", str(tmp_path / "out"), "--push", "owner/name"]
    with pytest.raises(
        RunError, match=r"did not take it \(403 Forbidden\)\. .*out is whole; .*`hf upload owner/name .*out`"
    ):
        export(words)
    assert load_model(tmp_path / "out").classes == ["a", "b", "c", "d"]


def test_push_is_refused_before_the_work(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--checkpoint", str(folder), "--out", str(tmp_path / "out"), "--push"]
    with pytest.raises(ConfigError, match="give OWNER/NAME"):
        export([*words, "name"])
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ConfigError, match=r"needs a token .*`hf auth login`"):
        export([*words, "owner/name"])
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'tubelet\[hub\]'"):
        export([*words, "owner/name"])
    with pytest.raises(WeightsError, match=r"hf-hub:owner/name needs .* pip install 'tubelet\[hub\]'"):
        create_model("hf-hub:owner/name")
    assert not (tmp_path / "out").exists()


def test_a_model_without_our_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(WeightsError, match=r"hf-hub:owner/name holds no model\.safetensors"):
        create_model("hf-hub:owner/name")


@pytest.fixture
def hub(folder: Path) -> Iterator[str]:
    """A stand-in for the Hub that has owner/name, until it is asked for /gone."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            where = self.path.split("?")[0]
            if where == "/gone":
                threading.Thread(target=close).start()
            if where.startswith("/api/models/owner/name/tree/"):
                self.answer(json.dumps([{"type": "file", "path": name, "size": len(files[name]), "oid": sha1(
                    files[name]).hexdigest()} for name in files]).encode())  # fmt: skip
            elif where.startswith("/api/models/owner/name"):
                siblings = [{"rfilename": name} for name in files]
                self.answer(json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode())
            elif where.startswith(f"/owner/name/resolve/{COMMIT}/"):
                self.answer(files[where.rsplit("/", 1)[1]])
            else:
                self.send_response(404)
                if "/nobody/" in where:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            for name, value in (("ETag", f'"{sha1(body).hexdigest()}"'), ("X-Repo-Commit", COMMIT)):
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)

    def close() -> None:
        server.shutdown()
        server.server_close()

    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    close()


@pytest.mark.slow
def test_from_the_hub_and_once_it_is_gone_from_the_cache(hub: str, folder: Path, tmp_path: Path) -> None:
    code = """
import json, os, time, urllib.error, urllib.request
from tubelet.backbones import WeightsError, create_model, load_model
from tubelet.pipeline.checkpoints.trained import load_network

def refused(name):
    try:
        create_model(name)
    except WeightsError as error:
        return str(error)

told = {"classes": create_model("hf-hub:owner/name").classes, "nobody": refused("hf-hub:nobody/name")}
try:
    for _ in range(100):
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/gone", timeout=10)
        time.sleep(0.1)
except urllib.error.HTTPError:
    time.sleep(1)
except OSError:
    pass
trained = load_network("hf-hub:owner/name@main")
told |= {"cached": trained.classes, "sha256": trained.sha256, "source": trained.source}
print(json.dumps(told | {"gone": refused("hf-hub:owner/other")}))
"""
    env = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["classes"] == told["cached"] == ["a", "b", "c", "d"]
    assert told["source"] == "hf-hub:owner/name@main"
    assert "there is no such model on the Hub, or it is private" in told["nobody"]
    assert "hf-hub:owner/other cannot be fetched, and the cache does not hold it" in told["gone"]
