"""`tubelet browse`: a picture that shows something, a page that is whole, and gaps for what cannot be read."""

from __future__ import annotations

import base64
import io
import shutil
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet.datasets import IndexConfig, ShardedSplit, index_data
from tubelet.launch.browse import main
from tubelet.pipeline.errors import ConfigError

CLIP = ("--frames", "4", "--stride", "2", "--size", "48", "--workers", "0")


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, file: Path):
        super().__init__()
        self.images: list[dict] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def opened(self) -> list[Image.Image]:
        return [Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) for image in self.images]


def browse(*words: object) -> None:
    main([*map(str, words), *CLIP])


def test_a_picture_by_the_command(tubelet, dataset: Path, tmp_path: Path) -> None:
    done = tubelet(
        "browse",
        dataset,
        "--model",
        "timesformer_tiny",
        "--per-class",
        1,
        "--workers",
        1,
        "--out",
        tmp_path / "sheet.png",
    )
    assert done.code == 0, done.out
    assert "4 videos of 4 classes" in done.out
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    rows = np.array_split(picture[24:-24], 4)
    assert all(row.std() > 20 for row in rows), "a row shows nothing"


def test_a_page_is_whole_and_moves(dataset: Path, tmp_path: Path) -> None:
    browse(dataset, "--out", tmp_path / "page.html", "--per-class", 2, "--classes", "left", "right")
    page = Page(tmp_path / "page.html")
    assert len(page.images) == 4
    assert page.tags.count("section") == 2
    split = ShardedSplit(dataset, "train")
    names = {split.key(i) for i in range(len(split)) if split.classes[split.labels[i]] in ("left", "right")}
    assert {image["alt"] for image in page.images} <= names
    for picture in page.opened():
        assert (picture.format, picture.size, picture.n_frames) == ("WEBP", (48, 48), 4)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert all(image["src"].startswith("data:") for image in page.images)


def test_draws_of_augmentation_lie_side_by_side(dataset: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("augment: {flip: 0.5, rand_augment: m9-n2-inc1, mixup: 0.8}")
    words = (dataset, "--recipe", recipe, "--augment", "--draws", 3, "--per-class", 1, "--out")
    browse(*words, tmp_path / "page.html")
    browse(*words, tmp_path / "sheet.png")
    page = Page(tmp_path / "page.html")
    assert len(page.images) == 12
    assert any("% left" in text or "% clockwise" in text for text in page.text), "mixed labels are not told"
    pixels = [np.asarray(picture.convert("RGB")) for picture in page.opened()]
    assert len({picture.tobytes() for picture in pixels}) == 12
    assert np.asarray(Image.open(tmp_path / "sheet.png")).std() > 20


@pytest.mark.parametrize("augment", [(), ("--augment", "--draws", "2")])
@pytest.mark.parametrize("kind", ["png", "html"])
def test_what_cannot_be_read_is_a_gap_with_its_name(dataset: Path, tmp_path: Path, augment: tuple, kind: str) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "shards"))
    split = ShardedSplit(copy, "train")
    span = split.span(0)
    data = bytearray(span.path.read_bytes())
    data[span.offset : span.offset + span.size] = bytes(span.size)
    span.path.write_bytes(data)
    browse(copy, "--per-class", 99, *augment, "--out", tmp_path / f"out.{kind}")
    if kind == "png":
        assert (np.asarray(Image.open(tmp_path / "out.png")) == 70).all(-1).sum() >= 4 * 96 * 96
        return
    page = Page(tmp_path / "out.html")
    assert len(page.images) == (len(split) - 1) * (2 if augment else 1)
    (gap,) = [text for text in page.text if "cannot be read" in text]
    assert gap.startswith(f"{split.key(0)} cannot be read: ")


def test_videos_without_labels_are_shown_too(videos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        tar.add(next(videos.rglob("*.mp4")), "a.mp4")
    for _ in index_data(IndexConfig(str(tmp_path), workers=1)):
        pass
    for augment in ((), ("--augment", "--draws", "2")):
        browse(tmp_path, *augment, "--out", tmp_path / "page.html")
        page = Page(tmp_path / "page.html")
        assert "(unlabelled)" in page.text
        assert {image["alt"] for image in page.images} == {"a"}


def test_names_from_the_data_stay_text(videos: Path, tmp_path: Path) -> None:
    files = sorted(path for path in videos.rglob("*") if path.is_file())[:2]
    (tmp_path / "a<b>").mkdir()
    with tarfile.open(tmp_path / "a<b>" / "train-0.tar", "w") as tar:
        for path, key in zip(files, ('"onload="x', "<b>"), strict=True):
            tar.add(path, f"{key}{path.suffix}")
            label = tarfile.TarInfo(f"{key}.cls")
            label.size = len(path.name)
            tar.addfile(label, io.BytesIO(f"<script>{key}".encode()[: label.size].ljust(label.size, b"x")))
    for _ in index_data(IndexConfig(str(tmp_path / "a<b>"), workers=1)):
        pass
    browse(tmp_path / "a<b>", "--out", tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert not {"script", "b"} & set(page.tags)
    assert [set(image) for image in page.images] == [{"alt", "src"}] * 2
    assert {image["alt"] for image in page.images} == {'"onload="x', "<b>"}
    assert any("<script>" in text for text in page.text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "sheet.jpg", *CLIP), "ends in .png or .html"),
        (("--out", "sheet.png", "--frames", "4"), "which clips"),
        (("--out", "sheet.png", "--classes", "lefd", *CLIP), "did you mean 'left'"),
        (("--out", "sheet.png", "--per-class", "99", "--augment", "--draws", "99", *CLIP), "write a page"),
    ],
)
def test_what_cannot_be_shown_is_said(dataset: Path, words: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main([str(dataset), *words])
