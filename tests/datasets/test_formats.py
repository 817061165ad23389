"""Each dataset of the field from its files to shards, by the command line that the README gives for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tubelet.datasets import (
    Card,
    ClipSettings,
    DataError,
    Position,
    ShardedSplit,
    TrainOrder,
    read_card,
    train_batches,
    view_batches,
)
from tubelet.datasets.shards.index import read_index
from tubelet.launch.prepare import main
from tubelet.video import encode_video, open_video

CLASSES = ["anticlockwise", "clockwise", "left", "right"]
Prepare = Callable[..., Card]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    def run(*words: object) -> Card:
        main([*map(str, words), "--out", str(tmp_path / "out"), "--check", "packets", "--workers", "2"])
        return read_card(tmp_path / "out")

    return run


def sorted_files(videos: Path) -> list[Path]:
    return sorted(path for path in videos.rglob("*") if path.is_file())


def labels_of(folder: Path, split: str) -> dict[str, str | None]:
    """Class by key, of a split as it is read back."""
    data = ShardedSplit(folder, split)
    return {data.key(i): data.classes[label] if label >= 0 else None for i, label in enumerate(data.labels)}


def counts(card: Card) -> dict[str, tuple[int, int]]:
    return {name: (split.videos, split.listed) for name, split in card.splits.items()}


def test_kinetics(videos: Path, tmp_path: Path, prepare: Prepare) -> None:
    rows: dict[str, list[str]] = {"train": [], "validate": [], "test": []}
    for number, path in enumerate(sorted_files(videos)):
        split = ("train", "train", "validate", "test")[number % 4]
        trimmed = number % 3 or number == 0
        name = f"id-{number}_{number:06d}_{number + 10:06d}" if trimmed else f"id-{number}"
        copy = tmp_path / "k400" / split / path.parent.name / f"{name}{path.suffix}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        label = "" if split == "test" else path.parent.name
        rows[split].append(f"{label},id-{number},{number},{number + 10},{split}")
    rows["train"].append("left,gone,0,10,train")
    for split, lines in rows.items():
        text = "\n".join(["label,youtube_id,time_start,time_end,split", *lines])
        (tmp_path / f"{split}.csv").write_text(text)
    csvs = sorted(tmp_path.glob("*.csv"))
    with pytest.raises(DataError, match=r"1 of 25 videos are missing, more .*gone_000000_000010.mp4.*--max-bad 5%$"):
        prepare("--videos", tmp_path / "k400", "--labels", *csvs)
    assert not (tmp_path / "out").exists()
    card = prepare("--videos", tmp_path / "k400", "--labels", *csvs, "--max-bad", "8%")
    assert card.classes == CLASSES
    assert counts(card) == {"train": (12, 13), "val": (6, 6), "test": (6, 6)}
    assert set(labels_of(tmp_path / "out", "test").values()) == {None}
    assert labels_of(tmp_path / "out", "train")["id-0_000000_000010"] == "anticlockwise"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [Path(entry["path"]).name for entry in report["bad"]] == ["gone_000000_000010.mp4"]
    assert report["splits"]["train"] == {"videos": 13, "good": 12}
    for name in ("train", "val", "test"):  # the files without times in their names are too short to hold more
        split = ShardedSplit(tmp_path / "out", name)
        assert all(split.frame_range(i)[0] == 0 for i in range(len(split)))


def test_something_something(videos: Path, tmp_path: Path, prepare: Prepare) -> None:
    templates = {"right": "Moving [something] right", "left": "Moving [something] left"}
    ids = dict(zip(templates, "01", strict=True))
    entries: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    folder = tmp_path / "20bn-something-something-v2"
    folder.mkdir()
    for label, template in templates.items():
        for number, path in enumerate(sorted_files(videos / label)):
            shutil.copy(path, folder / f"{ids[label]}{number}{path.suffix}")
            split = ("train", "train", "train", "validation", "validation", "test")[number]
            known = {} if split == "test" else {"template": template, "label": "moving it", "placeholders": ["it"]}
            entries[split].append({"id": f"{ids[label]}{number}", **known})
    for split, content in entries.items():
        (tmp_path / f"something-something-v2-{split}.json").write_text(json.dumps(content))
    numbers = {template.replace("[something]", "something"): ids[label] for label, template in templates.items()}
    (tmp_path / "something-something-v2-labels.json").write_text(json.dumps(numbers))
    card = prepare("--videos", folder, "--labels", *tmp_path.glob("*.json"))
    assert card.classes == ["Moving something right", "Moving something left"]
    assert counts(card) == {"train": (6, 6), "val": (4, 4), "test": (2, 2)}
    assert labels_of(tmp_path / "out", "val") == {
        **dict.fromkeys(("03", "04"), "Moving something right"),
        **dict.fromkeys(("13", "14"), "Moving something left"),
    }


def test_ucf101(videos: Path, tmp_path: Path, prepare: Prepare) -> None:
    names = [path.relative_to(videos) for path in sorted_files(videos)]
    (tmp_path / "classInd.txt").write_text("".join(f"{n} {label}\r\n" for n, label in enumerate(CLASSES, start=1)))
    train = [f"{name} {CLASSES.index(name.parent.name) + 1}\r\n" for name in names[::2]]
    (tmp_path / "trainlist01.txt").write_text("".join(train))
    (tmp_path / "testlist01.txt").write_text("".join(f"{name}\r\n" for name in names[1::2]))
    card = prepare("--videos", videos, "--labels", tmp_path / "classInd.txt", *tmp_path.glob("*list01.txt"))
    assert card.classes == CLASSES
    assert counts(card) == {"train": (12, 12), "val": (12, 12)}
    assert all(key.startswith(str(label)) for key, label in labels_of(tmp_path / "out", "val").items())


def test_hmdb51(videos: Path, tmp_path: Path, prepare: Prepare) -> None:
    for label in CLASSES:
        lines = [f"{path.name} {number % 3} \n" for number, path in enumerate(sorted_files(videos / label))]
        (tmp_path / f"{label}_test_split1.txt").write_text("".join(lines))
    card = prepare("--videos", videos, "--labels", *tmp_path.glob("*_test_split1.txt"))
    assert card.classes == CLASSES
    assert counts(card) == {"train": (8, 8), "val": (8, 8)}


def test_lists(videos: Path, tmp_path: Path, prepare: Prepare) -> None:
    names = [path.relative_to(videos) for path in sorted_files(videos)]
    order = CLASSES[::-1]
    (tmp_path / "label_map.txt").write_text("\n".join(order))
    for split, some in (("train", names[::2]), ("val", names[1::2])):
        lines = [f"{name} {order.index(name.parent.name)}" for name in some]
        (tmp_path / f"demo_{split}_list_videos.txt").write_text("\n".join(lines))
    card = prepare("--videos", videos, "--labels", *tmp_path.glob("*.txt"))
    assert card.classes == order
    assert all(key.startswith(str(label)) for key, label in labels_of(tmp_path / "out", "val").items())
    with pytest.raises(DataError, match=r"already holds a dataset.*--seed is 1 and was 0"):
        prepare("--videos", videos, "--labels", *tmp_path.glob("*.txt"), "--seed", 1)


def test_several_labels(videos: Path, tmp_path: Path, prepare: Prepare) -> None:
    files = sorted_files(videos)
    labels = [[path.parent.name, "all"] if number else [] for number, path in enumerate(files)]
    table = pd.DataFrame({"path": [str(path.relative_to(videos)) for path in files], "labels": labels})
    table.to_parquet(tmp_path / "labels.parquet")
    card = prepare("--videos", videos, "--labels", tmp_path / "labels.parquet", "--split", "train")
    assert card.multilabel
    assert card.classes == ["all", *CLASSES]
    assert card.splits["train"].per_class == {"all": 23, "anticlockwise": 5, "clockwise": 6, "left": 6, "right": 6}
    split = ShardedSplit(tmp_path / "out", "train")
    batch = next(
        train_batches(split, ClipSettings(2, 1, 16), TrainOrder.fitting(24, 0, 24, 1, 1), Position(0, 0), 0, 0)
    )
    assert batch.labels.dtype == torch.bool
    assert batch.labels.sum(0).tolist() == [23, 5, 6, 6, 6]
    views = next(view_batches(split, ClipSettings(2, 1, 16), (1, 1), range(24), 24, 0))
    for index, hot in zip(views.indices.tolist(), views.labels, strict=True):
        given = dict(zip((path.relative_to(videos).with_suffix("").as_posix() for path in files), labels, strict=True))
        assert {card.classes[number] for number in hot.nonzero().flatten()} == set(given[split.key(index)])
    with pytest.raises(DataError, match=r"its videos have several labels each. Train on them with --loss bce"):
        split.require_one_label()


class TestPartsOfAVideo:
    """100 frames, each of a grey of its own, with B-frames and at 10 a second: a clip says which frames it is of."""

    @pytest.fixture
    def grey(self, tmp_path: Path) -> Path:
        frames = np.repeat(np.arange(100, dtype=np.uint8) * 2, 64 * 64 * 3).reshape(100, 64, 64, 3)
        encode_video(tmp_path / "grey.mp4", frames, 10, "libx264", {"qp": "0", "g": "25", "bf": "2"})
        return tmp_path / "grey.mp4"

    @pytest.fixture
    def split(self, grey: Path, tmp_path: Path, prepare: Prepare) -> ShardedSplit:
        rows = ["path,label,start,end,split", "grey.mp4,a,3,5,train", "grey.mp4,b,7.05,,train", "grey.mp4,a,0,1,train"]
        (tmp_path / "parts.csv").write_text("\n".join([*rows, "grey.mp4,b,20,21,val"]))
        card = prepare("--labels", tmp_path / "parts.csv", "--max-bad", 1)
        assert counts(card) == {"train": (3, 3)}
        return ShardedSplit(tmp_path / "out", "train")

    @pytest.fixture
    def seen(self, grey: Path) -> Callable[[torch.Tensor], np.ndarray]:
        with open_video(grey) as video:
            greys = video.frames(range(100)).float().mean((1, 2, 3))
        assert (greys.diff() > 0.5).all()
        return lambda clips: (clips.float().mean((-1, -2, -3))[..., None] - greys).abs().argmin(-1).numpy()

    def test_the_index_knows_the_frames(self, split: ShardedSplit, tmp_path: Path) -> None:
        ranges = {split.key(i): split.frame_range(i) for i in range(3)}
        assert ranges == {"grey_3000-5000ms": (30, 50), "grey_7050-ms": (71, 100), "grey_0-1000ms": (0, 10)}
        rows = read_index(next(tmp_path.glob("out/*.tar"))).table.to_pylist()
        assert {(row["start"], row["end"], row["frames"]) for row in rows} == {
            (3, 5, 100),
            (7.05, None, 100),
            (0, 1, 100),
        }
        bad = json.loads((tmp_path / "out" / "report.json").read_text())["bad"]
        assert [(entry["start"], entry["cause"]) for entry in bad] == [
            (20, "no frame lies between start and end: the file is 10.00 s long")
        ]

    @pytest.mark.parametrize("sampling", ["dense", "segments"])
    def test_training_clips_stay_inside(self, split: ShardedSplit, sampling: str, seen: Callable) -> None:
        settings = ClipSettings(4, 2, 32, sampling)
        order = TrainOrder.fitting(3, 0, 3, 1, 1)
        batches = train_batches(split, settings, order, Position(0, 0), 0, 0)
        starts = set()
        for _ in range(8):
            batch = next(batches)
            for clip, label in zip(seen(batch.clips), batch.labels.tolist(), strict=True):
                inside = [(0, 10), (30, 50)] if label == 0 else [(71, 100)]
                assert any(first <= clip.min() and clip.max() < after for first, after in inside), clip
                starts.add(int(clip[0]))
                if sampling == "dense":
                    assert (np.diff(clip) == 2).all()
        assert len(starts) > 8

    def test_views_cover_the_part_and_tell_its_seconds(self, split: ShardedSplit, seen: Callable) -> None:
        batch = next(view_batches(split, ClipSettings(4, 2, 32), (2, 1), range(3), 3, 0))
        for index, clips, seconds in zip(batch.indices.tolist(), seen(batch.clips), batch.seconds, strict=True):
            first, after = split.frame_range(index)
            assert clips[0].tolist() == [first, first + 2, first + 4, first + 6]
            assert clips[1].tolist() == [after - 7, after - 5, after - 3, after - 1]
            assert seconds.flatten().tolist() == pytest.approx(
                [first / 10, first / 10 + 0.7, after / 10 - 0.7, after / 10]
            )

    @pytest.mark.parametrize(
        ("span", "frames"),
        [((2, 6), (20, 60)), ((0, 10), (0, 100)), ((1, 10.4), (0, 100)), ((40, 44), (0, 100)), ((8, 13), (80, 100))],
    )
    def test_kinetics_tells_a_longer_video_from_a_trimmed_one(
        self, grey: Path, tmp_path: Path, prepare: Prepare, span: tuple[float, float], frames: tuple[int, int]
    ) -> None:
        rows = ["label,youtube_id,time_start,time_end,split", f"a,grey,{span[0]},{span[1]},train", "b,no,0,10,train"]
        (tmp_path / "k.csv").write_text("\n".join(rows))
        prepare("--videos", tmp_path, "--labels", tmp_path / "k.csv", "--max-bad", 1)
        assert ShardedSplit(tmp_path / "out", "train").frame_range(0) == frames


def test_videos_that_lack_their_label_are_not_scored(videos: Path, tmp_path: Path, prepare: Prepare) -> None:
    rows = [f"{path.relative_to(videos)},,test" for path in sorted_files(videos)[:3]]
    rows += [f"{path.relative_to(videos)},{path.parent.name},train" for path in sorted_files(videos)[3:]]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    prepare("--videos", videos, "--labels", tmp_path / "labels.csv")
    ShardedSplit(tmp_path / "out", "train").require_one_label()
    with pytest.raises(DataError, match="out, test: 3 of 3 videos have no labels"):
        ShardedSplit(tmp_path / "out", "test").require_one_label()
