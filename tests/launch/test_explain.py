"""`tubelet explain` as a user starts it: what it writes, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tubelet.backbones import create_model, save_model
from tubelet.launch.explain import main as explain
from tubelet.pipeline.errors import ConfigError, RunError
from tubelet.pipeline.explanation import drawing
from tubelet.video import VideoError, open_video


@pytest.fixture(scope="module")
def video(videos: Path) -> Path:
    return min(videos.rglob("*.mp4"))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_maps_a_film_and_a_picture(tubelet, checkpoint: Path, video: Path, tmp_path: Path) -> None:
    done = tubelet("explain", "--checkpoint", checkpoint, "--video", video, "--out", tmp_path / "seen")
    assert done.code == 0, done.out
    assert [Path(line).name for line in done.out.split()[-3:]] == ["maps.npz", "overlay.mp4", "sheet.png"]
    assert files(tmp_path / "seen") == ["maps.npz", "overlay.mp4", "sheet.png"]
    stored = np.load(tmp_path / "seen" / "maps.npz")
    with open_video(video) as reader:
        assert (np.diff(stored["frames"]) > 0).all()
        assert stored["frames"][-1] < reader.info.frames
        np.testing.assert_allclose(stored["times"], reader.times()[stored["frames"]])
    count = len(stored["frames"])
    assert stored["maps"].shape == (count, 32, 32)
    assert stored["maps"].max() == 1
    assert stored["maps"].min() == 0
    np.testing.assert_allclose(stored["scores"].sum(1), 1, rtol=1e-5)
    assert len(stored["scores"]) == len(stored["clip_seconds"]) > 1
    assert stored["label"] == stored["classes"][stored["scores"].mean(0).argmax()]
    assert (stored["method"], stored["layer"].item()[:9]) == ("Grad-CAM", "features.")
    with open_video(tmp_path / "seen" / "overlay.mp4") as film:
        assert (film.info.frames, film.info.height, film.info.width) == (count, 224, 448)
        halves = film.frames([int(stored["maps"].sum((1, 2)).argmax())])[0].float().split(224, dim=1)
    coloured = [(half.amax(-1) - half.amin(-1) > 60).float().mean() for half in halves]
    assert coloured[1] > 0.02
    sheet = np.asarray(Image.open(tmp_path / "seen" / "sheet.png").convert("RGB"))
    assert sheet.shape[1] > 1000
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000


def test_another_class_and_rate(checkpoint: Path, video: Path, tmp_path: Path) -> None:
    def stored(*words: str) -> dict[str, np.ndarray]:
        explain(["--checkpoint", str(checkpoint), "--video", str(video), "--out", str(tmp_path / "o"), *words])
        return dict(np.load(tmp_path / "o" / "maps.npz"))

    first = stored()
    name = next(name for name in first["classes"] if name != first["label"])
    other = stored("--label", name, "--batch-size", "2", "--every-seconds", "0.1")
    assert other["label"] == name
    assert len(other["scores"]) > len(first["scores"])
    assert np.diff(other["clip_seconds"][:, 0]).mean() == pytest.approx(0.1, abs=0.02)
    np.testing.assert_allclose(other["scores"][0], first["scores"][0], atol=1e-5)
    shared, here, there = np.intersect1d(first["frames"], other["frames"], return_indices=True)
    assert len(shared) > 8
    assert not np.allclose(other["maps"][there], first["maps"][here], atol=0.1)


def test_by_rollout_and_at_another_layer(
    checkpoint: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = create_model("timesformer_tiny", num_classes=2, depth=1)
    save_model(model, tmp_path / "attends")
    words = ["--video", str(video), "--out", str(tmp_path / "seen")]
    explain(["--checkpoint", str(tmp_path / "attends"), *words, "--method", "rollout"])
    stored = np.load(tmp_path / "seen" / "maps.npz")
    assert (stored["method"], stored["layer"]) == ("attention rollout", "patch_embed")
    assert stored["maps"].max() == 1
    with pytest.raises(ConfigError, match=r"--method rollout: c3d_tiny mixes places by convolutions"):
        explain(["--checkpoint", str(checkpoint), *words, "--method", "rollout"])
    with pytest.raises(ConfigError, match=r"--layer stem: is for Grad-CAM, and timesformer_tiny attends"):
        explain(["--checkpoint", str(tmp_path / "attends"), *words, "--layer", "stem"])
    with pytest.raises(ConfigError, match=r"--layer no: c3d_tiny has no such stage\. There are features") as refused:
        explain(["--checkpoint", str(checkpoint), *words, "--layer", "no"])
    explain(["--checkpoint", str(checkpoint), *words])
    usual = str(np.load(tmp_path / "seen" / "maps.npz")["layer"])
    earlier = str(refused.value).partition("There are ")[2].split(", ")[0]
    explain(["--checkpoint", str(checkpoint), *words, "--layer", earlier])
    assert np.load(tmp_path / "seen" / "maps.npz")["layer"] == earlier != usual
    assert "warning" not in capsys.readouterr().err


def test_where_nothing_speaks_for_a_class_it_says_so(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = create_model("r3d_tiny", num_classes=2)
    torch.nn.init.constant_(model.head.weight, -1.0)  # maps after a ReLU are not negative: all of it speaks against
    save_model(model, tmp_path / "model")
    explain(["--checkpoint", str(tmp_path / "model"), "--video", str(video), "--out", str(tmp_path / "seen")])
    assert not np.load(tmp_path / "seen" / "maps.npz")["maps"].any()
    said = capsys.readouterr().err
    assert "warning: the maps are empty: at layer" in said
    assert "Try an earlier --layer or another --label" in said


def test_filters_beside_those_of_the_image(checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = create_model("resnet_18", num_classes=3, layers=(1, 1, 1, 1), width=8, stem_kernel=7)
    torch.save(image.state_dict(), tmp_path / "image.pth")
    video = create_model("r3d_tiny", num_classes=2)
    save_model(video, tmp_path / "video")
    words = ["--filters", "--out", str(tmp_path / "seen")]
    explain(["--checkpoint", str(checkpoint), *words])
    explain(["--checkpoint", str(tmp_path / "video"), *words])
    alone = np.asarray(Image.open(tmp_path / "seen" / "filters.png"))
    explain(["--checkpoint", str(tmp_path / "video"), *words, "--image-weights", str(tmp_path / "image.pth")])
    beside = np.asarray(Image.open(tmp_path / "seen" / "filters.png"))
    assert files(tmp_path / "seen") == ["filters.png"]
    assert alone.shape == beside.shape
    assert (alone != beside).any(-1).mean() > 0.1  # more than the title


def test_what_it_cannot_explain_it_names(checkpoint: Path, video: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "broken.mp4").write_bytes(video.read_bytes()[:200])
    right = {"--checkpoint": checkpoint, "--video": video, "--out": tmp_path / "new" / "seen"}
    wrong: list[tuple[dict[str, object], type[Exception], str]] = [
        ({"--checkpoint": None}, RunError, "no checkpoint given"),
        ({"--checkpoint": tmp_path / "no"}, RunError, "no such folder"),
        ({"--video": None}, ConfigError, "--video FILE or --filters"),
        ({"--out": None}, ConfigError, "--out DIR"),
        ({"--video": tmp_path / "no.mp4"}, VideoError, "no.mp4"),
        ({"--video": tmp_path / "broken.mp4"}, VideoError, "broken.mp4"),
        ({"--out": tmp_path / "file"}, ConfigError, "--out .*file: cannot be written"),
        ({"--out": tmp_path / "file" / "below"}, ConfigError, "--out .*below: cannot be written"),
        ({"--image-weights": "x.pth"}, ConfigError, "--filters"),
        ({"--label": "nothing of the kind"}, ConfigError, "knows no such class"),
    ]
    for change, error, message in wrong:
        words = [str(word) for pair in {**right, **change}.items() if pair[1] is not None for word in pair]
        with pytest.raises(error, match=message):
            explain(words)
        assert not (tmp_path / "new").exists(), f"{change}: an empty folder stays"


def test_half_written_files_do_not_stay(
    checkpoint: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        Path(str(arguments[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drawing.Figure, "savefig", full)
    with pytest.raises(ConfigError, match=r"--out .*seen: cannot be written \(No space left on device\)"):
        explain(["--checkpoint", str(checkpoint), "--video", str(video), "--out", str(tmp_path / "seen")])
    assert files(tmp_path / "seen") == ["maps.npz", "overlay.mp4"]
