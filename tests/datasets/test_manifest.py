from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.datasets import DataError, Video, assign_splits, videos_in_folder


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_a_folder_of_classes(tmp_path: Path) -> None:
    touch(tmp_path, "jump/a.b.mp4", "jump/deep/c.webm", "run/a b.avi", ".hidden/x.mp4", "run/.DS_Store")
    videos = videos_in_folder(tmp_path).videos
    assert [(v.key, *v.labels, v.split) for v in videos] == [
        ("jump/a_b", "jump", None),
        ("jump/deep/c", "jump", None),
        ("run/a_b", "run", None),
    ]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    assert [v.labels for v in videos_in_folder(touch(tmp_path, "a.mp4", "b.mp4")).videos] == [(), ()]


def test_a_folder_that_brings_its_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/jump/a.mp4", "train/run/b.mp4", "val/jump/a.mp4")
    videos = videos_in_folder(tmp_path).videos
    assert [(v.key, *v.labels, v.split) for v in videos] == [
        ("train/jump/a", "jump", "train"),
        ("train/run/b", "run", "train"),
        ("val/jump/a", "jump", "val"),
    ]


def test_files_of_one_name_get_keys_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "jump/a.mp4", "jump/a.webm", "run/a.mp4")
    keys = [v.key for v in videos_in_folder(tmp_path).videos]
    assert len(set(keys)) == 3
    assert "run/a" in keys
    assert all("." not in key for key in keys)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "no such folder"),
        ([], "the folder is empty"),
        (["jump/a.mp4", "jump/b.mp4"], "only one class"),
        (["jump/a.mp4", "run/a.mp4", "c.mp4"], "beside the class folders"),
        (["train/a.mp4", "train/run/a.mp4", "val/run/b.mp4"], "beside the class folders"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, names: list[str] | None, message: str) -> None:
    folder = tmp_path / "videos"
    if names is not None:
        folder.mkdir()
        touch(folder, *names)
    with pytest.raises(DataError, match=message):
        videos_in_folder(folder)


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 30), min_size=2), st.integers(0, 3))
def test_splits_are_stratified_and_pure(sizes: dict[str, int], seed: int) -> None:
    videos = [
        Video(f"{label}/{i}", Path(f"{label}/{i}"), (label,)) for label, size in sizes.items() for i in range(size)
    ]
    placed = assign_splits(videos, 0.2, seed)
    assert [v.key for v in placed] == [v.key for v in videos]
    for label, size in sizes.items():
        held_out = sum(v.split == "val" for v in placed if v.labels == (label,))
        assert held_out == (0 if size == 1 else max(1, round(size * 0.2)))
    by_key = {v.key: v.split for v in assign_splits(videos[::-1], 0.2, seed)}
    assert all(by_key[v.key] == v.split for v in placed)


def test_videos_of_several_labels_are_held_out_as_one_class() -> None:
    videos = [Video(str(i), Path(str(i)), (f"{i}", "all")) for i in range(10)]
    assert [v.split for v in assign_splits(videos, 0.2, 0)].count("val") == 2


@given(st.lists(st.integers(0, 5), min_size=1), st.integers(0, 3))
def test_the_parts_of_a_file_stay_in_one_split(files: list[int], seed: int) -> None:
    videos = [Video(str(i), Path(str(file)), ("xy"[i % 2],), start=i) for i, file in enumerate(files)]
    placed = assign_splits(videos, 0.3, seed)
    assert len({(v.path, v.split) for v in placed}) == len(set(files))


def test_given_splits_are_kept() -> None:
    videos = [Video("a", Path(), ("x",), "test"), Video("b", Path(), ("x",)), Video("c", Path(), ("y",), "train")]
    assert [v.split for v in assign_splits(videos, 0.5, 0)] == ["test", "train", "train"]
