"""Label files as their publishers write them: recognised, read, and refused with one message where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.datasets import DataError, Manifest, read_annotations
from tubelet.datasets.annotations.lists import parse_line, split_in_name

KINETICS = "label,youtube_id,time_start,time_end,split\n"


class Files:
    """Small label files beside a folder `videos` of empty files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.videos = folder / "videos"
        self.touch(".keep")

    def touch(self, *names: str) -> None:
        for name in names:
            (self.videos / name).parent.mkdir(parents=True, exist_ok=True)
            (self.videos / name).touch()

    def write(self, **texts: str) -> list[Path]:
        """write(train_csv="...") writes train.csv."""
        paths = [self.folder / ".".join(name.rsplit("_", 1)) for name in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text)
        return paths

    def read(self, *, flat: bool = False, **texts: str) -> Manifest:
        return read_annotations(self.write(**texts), None if flat else self.videos)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class TestKinetics:
    def test_files_in_folders_of_classes_flat_and_untrimmed(self, files: Files) -> None:
        files.touch("train/tai chi/a-_b_000001_000011.mp4", "bbb_000020_000030.mkv", "tai_chi/ccc.webm")
        manifest = files.read(
            train_csv=KINETICS + "tai chi,a-_b,1,11,train\nabseiling,bbb,20,30,train\n",
            validate_csv=KINETICS + "tai chi,ccc,40,50,validate\nzumba,ddd,0,10,val\n",
        )
        assert manifest.classes == ["abseiling", "tai chi", "zumba"]
        assert [(v.key, v.path.relative_to(files.videos).as_posix(), v.split) for v in manifest.videos] == [
            ("a-_b_000001_000011", "train/tai chi/a-_b_000001_000011.mp4", "train"),
            ("bbb_000020_000030", "bbb_000020_000030.mkv", "train"),
            ("ccc_000040_000050", "tai_chi/ccc.webm", "val"),
            ("ddd_000000_000010", "ddd_000000_000010.mp4", "val"),  # for the report: it is not there
        ]
        assert [(v.start, v.end, v.may_be_trimmed) for v in manifest.videos[1:3]] == [
            (None, None, False),
            (40, 50, True),
        ]

    def test_a_test_file_without_labels(self, files: Files) -> None:
        files.touch("x.mp4")
        text = "youtube_id,time_start,time_end,split\nx,0,10,test\n"
        manifest = files.read(test_csv=text, train_csv=KINETICS + "a,y,0,10,train\nb,z,0,10,train\n")
        assert [(v.labels, v.split) for v in manifest.videos] == [((), "test"), (("a",), "train"), (("b",), "train")]
        assert files.read(test_csv=text).classes == []

    def test_a_list_of_classes_settles_the_order(self, files: Files) -> None:
        files.touch("x.mp4")
        manifest = files.read(names_txt="b\na\nc\n", train_csv=KINETICS + "a,y,0,10,train\nb,z,0,10,train\n")
        assert manifest.classes == ["b", "a", "c"]

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ("a,x,0,10,train\nb,x,0,10,train\n", r"1 video \('.*x_000000_000010.mp4'\) is listed more than once"),
            ("a,x,0,10,train\na,x,0,10,val\n", "is in more than one split"),
            ("a,x,0,10,dev\n", "line 2: split 'dev' is not one of"),
            ("a,,0,10,train\n", "line 2: a label and a youtube_id are needed"),
            (",x,0,10,train\n", "line 2: a label and a youtube_id are needed"),
            ("a,x,ten,10,train\n", "line 2: time_start and time_end are no span"),
            ("a,x,10,10,train\n", "line 2: time_start and time_end are no span"),
            ("a,x,0,10,train\na,y,0,10,train\n", "only one class"),
            ("", "lists no videos"),
        ],
    )
    def test_what_is_wrong(self, files: Files, rows: str, message: str) -> None:
        files.touch("v.mp4")
        with pytest.raises(DataError, match=message):
            files.read(train_csv=KINETICS + rows)

    def test_without_a_folder(self, files: Files) -> None:
        with pytest.raises(DataError, match=r"train.csv: does not say where the videos lie. Give .* --videos"):
            files.read(flat=True, train_csv=KINETICS + "a,x,0,10,train\n")


class TestSomethingSomething:
    LABELS = json.dumps({"Putting something on something": "1", "Holding something": "0", "Tearing something": "2"})

    def entry(self, number: int, template: str | None = None) -> dict:
        about = {"label": "putting a cup on a plate", "template": template, "placeholders": ["a cup", "a plate"]}
        return {"id": str(number), **(about if template else {})}

    def test_all_parts(self, files: Files) -> None:
        files.touch("1.webm", "2.mp4")
        manifest = files.read(
            labels_json=self.LABELS,
            train_json=json.dumps([self.entry(1, "Putting [something] on [something]")]),
            validation_json=json.dumps([self.entry(2, "Holding [something]")]),
            test_json=json.dumps([self.entry(3)]),
        )
        assert manifest.classes == ["Holding something", "Putting something on something", "Tearing something"]
        assert [(v.key, v.path.name, v.labels, v.split) for v in manifest.videos] == [
            ("1", "1.webm", ("Putting something on something",), "train"),
            ("2", "2.mp4", ("Holding something",), "val"),
            ("3", "3.webm", (), "test"),
        ]

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ({"train_json": "[]"}, "the list of classes is missing"),
            ({"train_json": "[", "labels_json": LABELS}, "is no whole JSON"),
            ({"train_json": "[]", "labels_json": LABELS}, "lists no videos"),
            ({"train_json": '[{"id": "1"}]', "labels_json": LABELS}, "lacks its id or its template"),
            ({"part_json": '[{"id": "1"}]', "labels_json": LABELS}, "its name says no split"),
            ({"train_json": '[{"id": "1"}]', "labels_json": '{"a": {"b": 1}}'}, "'a' has no whole number as its id"),
            ({"train_json": '[{"id": "1"}]', "labels_json": '{"a": "1", "b": "1"}'}, r"1 id \('1'\) is in the list"),
            (
                {"train_json": '[{"id": "1", "template": "Eating [something]"}]', "labels_json": LABELS},
                r"1 label \('Eating something'\) is not among the 3 classes",
            ),
        ],
    )
    def test_what_is_wrong(self, files: Files, texts: dict[str, str], message: str) -> None:
        files.touch("1.webm")
        with pytest.raises(DataError, match=message):
            files.read(**texts)


class TestUCF101:
    CLASSES = "1 Archery\n2 Bowling\n3 Diving\n"

    def test_the_test_list_is_what_one_validates_on(self, files: Files) -> None:
        manifest = files.read(
            classInd_txt=self.CLASSES,
            trainlist01_txt="Archery/v_Archery_g08_c01.avi 1\nBowling/v_Bowling_g08_c01.avi 2\n",
            testlist01_txt="Bowling/v_Bowling_g01_c01.avi\n",
        )
        assert manifest.classes == ["Archery", "Bowling", "Diving"]
        assert [(v.key, v.labels, v.split) for v in manifest.videos] == [
            ("Archery/v_Archery_g08_c01", ("Archery",), "train"),
            ("Bowling/v_Bowling_g08_c01", ("Bowling",), "train"),
            ("Bowling/v_Bowling_g01_c01", ("Bowling",), "val"),
        ]

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ({"trainlist01_txt": "A/a.avi 1\n", "testlist02_txt": "A/a.avi\n"}, "the splits 01, 02"),
            ({"trainlist01_txt": "A/a.avi 1\n"}, "the list of classes is missing. Give --labels classInd.txt"),
            ({"classInd_txt": CLASSES, "trainlist01_txt": "A/a.avi 9\n"}, r"1 label \('9'\) is not among the 3"),
            ({"classInd_txt": CLASSES, "testlist01_txt": "A/a.avi\n"}, "line 1: no label follows the path 'A/a.avi'"),
        ],
    )
    def test_what_is_wrong(self, files: Files, texts: dict[str, str], message: str) -> None:
        with pytest.raises(DataError, match=message):
            files.read(**texts)


class TestHMDB51:
    def test_flat_and_in_folders(self, files: Files) -> None:
        files.touch("wave/#a b(1).avi", "b.avi")
        manifest = files.read(
            wave_test_split1_txt="#a b(1).avi 1 \nb.avi 2 \nunused.avi 0 \n", shoot_ball_test_split1_txt="c.avi 1\n"
        )
        assert manifest.classes == ["shoot_ball", "wave"]
        assert [(v.path.relative_to(files.videos).as_posix(), v.labels, v.split) for v in manifest.videos] == [
            ("wave/#a b(1).avi", ("wave",), "train"),
            ("b.avi", ("wave",), "val"),
            ("shoot_ball/c.avi", ("shoot_ball",), "train"),
        ]

    def test_files_of_two_splits(self, files: Files) -> None:
        with pytest.raises(DataError, match="files of the splits 1, 2, which hold the same videos"):
            files.read(wave_test_split1_txt="a.avi 1\n", wave_test_split2_txt="a.avi 2\n")

    def test_a_line_that_is_none(self, files: Files) -> None:
        with pytest.raises(DataError, match="line 1: is not a file name and 0, 1 or 2"):
            files.read(wave_test_split1_txt="a.avi 3\n")


class TestLists:
    @pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
    def test_separators_and_spaces_in_paths(self, files: Files, separator: str) -> None:
        manifest = files.read(
            k400_train_list_txt=f"a b/c 1.mp4{separator}2\nd.mp4{separator}0\n",
            k400_val_list_txt=f"e.mp4{separator}0\n",
        )
        assert manifest.classes == ["0", "1", "2"]
        assert [(v.key, v.labels, v.split) for v in manifest.videos] == [
            ("a b/c 1".replace(" ", "_"), ("2",), "train"),
            ("d", ("0",), "train"),
            ("e", ("0",), "val"),
        ]

    def test_paths_start_at_the_list_where_no_folder_is_given(self, files: Files) -> None:
        manifest = files.read(flat=True, train_csv="a.mp4 0\n/data/b.mp4 1\n")
        assert [str(v.path) for v in manifest.videos] == [str(files.folder / "a.mp4"), "/data/b.mp4"]

    def test_paths_may_start_in_a_folder_of_their_split(self, files: Files) -> None:
        files.touch("videos_train/x/a.mp4", "videos_val/x/a.mp4", "x/b.mp4")
        manifest = files.read(train_txt="x/a.mp4 0\nx/b.3gp 1\n", val_txt="x/a.mp4 0\nx/c.mp4 0\n")
        places = [v.path.relative_to(files.videos).as_posix() for v in manifest.videos]
        assert places == ["videos_train/x/a.mp4", "x/b.3gp", "videos_val/x/a.mp4", "x/c.mp4"]
        assert len({v.key for v in manifest.videos}) == 4

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("label_map_txt", "riding a bike\nmop floor\n"),
            ("classes_txt", "0 riding a bike\n1 mop floor\n"),
            ("classes_csv", "id,name\n0,riding a bike\n1,mop floor\n"),
            ("classnames_json", r'{"\"mop floor\"": 1, "\"riding a bike\"": 0}'),
        ],
    )
    def test_names_of_the_classes(self, files: Files, name: str, text: str) -> None:
        manifest = files.read(**{name: text}, train_txt="a.mp4 1\nb.mp4 0\n", test_txt="c.mp4\nd.mp4 -1\n")
        assert manifest.classes == ["riding a bike", "mop floor"]
        assert [v.labels for v in manifest.videos] == [("mop floor",), ("riding a bike",), (), ()]

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ({"one_txt": "a.mp4 0\n", "two_txt": "b.mp4 1\n"}, "one.txt: the name says no split"),
            ({"train_txt": "a.mp4 0\nb.mp4\n"}, "line 2: no label follows the path 'b.mp4'"),
            ({"train_txt": "a.mp4 0\nb.mp4 2\n", "names_txt": "x\ny\n"}, r"1 label \('2'\) is not among the 2 classes"),
            ({"train_txt": "a.mp4 0\nb.mp4 1\n", "val_txt": "a.mp4 0\n"}, "a.mp4'.* is in more than one split"),
            ({"names_txt": "x\ny\n"}, "names classes and no videos"),
            ({"names_txt": "x\nx\n", "train_txt": "a.mp4 0\n"}, r"1 name \('x'\) is in the list of classes more than"),
            ({"names_txt": "x\ny\n", "others_txt": "x\nz\n"}, "each is a list of classes"),
            (
                {"train_txt": "a.mp4 0\n", "val_csv": "path,label\na.mp4,x\n"},
                "in several formats: list: train.txt; table",
            ),
            ({"train_txt": "\n"}, "the file is empty"),
            ({"train_txt": "a.mp4 1700000000\nb.mp4 0\n"}, "the label 1700000000 is no number of a class"),
        ],
    )
    def test_what_is_wrong(self, files: Files, texts: dict[str, str], message: str) -> None:
        with pytest.raises(DataError, match=message):
            files.read(**texts)

    @given(
        st.text(st.characters(blacklist_categories=("C", "Z"), blacklist_characters='"'), min_size=1, max_size=8),
        st.text(st.characters(blacklist_categories=("C", "Z"), blacklist_characters='"'), min_size=1, max_size=8),
        st.integers(0, 10**6),
        st.sampled_from([" ", "\t", ",", "  "]),
    )
    def test_a_line_gives_back_its_path_and_label(self, first: str, second: str, label: int, separator: str) -> None:
        path = f"{first} {second}.mp4"
        assert parse_line(f"{path}{separator}{label}") == (path, label)
        assert parse_line(path) == (path, None)

    @pytest.mark.parametrize(
        ("name", "split"),
        [
            ("kinetics400_train_list_videos.txt", "train"),
            ("something-something-v2-validation.json", "val"),
            ("trainlist03.txt", "train"),
            ("testlist03.txt", "val"),
            ("test.csv", "test"),
            ("test_train_split.txt", None),
            ("all.txt", None),
        ],
    )
    def test_split_in_name(self, name: str, split: str | None) -> None:
        assert split_in_name(Path(name)) == split


class TestTables:
    def test_a_csv(self, files: Files) -> None:
        text = 'path,label,split\na.mp4,jump,train\n"x/b,1.mp4",run,validation\n../c.mp4,run,\nd.mp4,,test\n'
        manifest = files.read(flat=True, labels_csv=text)
        assert [(v.key, v.path, v.labels, v.split) for v in manifest.videos] == [
            ("a", files.folder / "a.mp4", ("jump",), "train"),
            ("x/b_1", files.folder / "x/b,1.mp4", ("run",), "val"),
            ("c", files.folder / "../c.mp4", ("run",), None),  # a key never leaves the folder a tar is unpacked in
            ("d", files.folder / "d.mp4", (), "test"),
        ]

    def test_parts_of_videos(self, files: Files) -> None:
        manifest = files.read(labels_csv="path,label,start,end\na.mp4,x,1.5,3\na.mp4,y,3,\na.mp4,x,,\n")
        assert [(v.key, v.start, v.end) for v in manifest.videos] == [
            ("a_1500-3000ms", 1.5, 3.0),
            ("a_3000-ms", 3.0, None),
            ("a", None, None),
        ]
        assert not manifest.multilabel

    def test_several_labels(self, files: Files) -> None:
        manifest = files.read(labels_csv="path,labels\na.mp4,run|jump\nb.mp4,run\nc.mp4,\n")
        assert manifest.multilabel
        assert manifest.classes == ["jump", "run"]
        assert [v.labels for v in manifest.videos] == [("run", "jump"), ("run",), ()]

    def test_parquet(self, files: Files, tmp_path: Path) -> None:
        table = {"path": ["a.mp4", "b.mp4"], "labels": [["run", "jump"], []], "start": [0.5, None], "more": [1, 2]}
        (tmp_path / "label=3").mkdir()  # not a column, although Hive would make it one
        file = tmp_path / "label=3" / "table.parquet"
        pd.DataFrame(table).to_parquet(file)
        manifest = read_annotations([file], files.videos)
        assert [(v.path.name, v.labels, v.start) for v in manifest.videos] == [
            ("a.mp4", ("run", "jump"), 0.5),
            ("b.mp4", (), None),
        ]

    @pytest.mark.parametrize("column", [[10, 2, None], ["10", "2", None]])
    def test_whole_numbers_are_ordered_by_size(self, tmp_path: Path, column: list) -> None:
        file = tmp_path / "table.parquet"
        table = {"path": ["a", "b", "c"], "label": column, "split": ["train", "val", "test"]}
        pd.DataFrame(table).to_parquet(file)
        assert read_annotations([file], None).classes == ["2", "10"]

    def test_numbers_of_a_list_of_classes(self, files: Files) -> None:
        manifest = files.read(names_txt="x\ny\n", labels_csv="path,label\na.mp4,1\nb.mp4,0\n")
        assert [v.labels for v in manifest.videos] == [("y",), ("x",)]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("file,class\na,b\n", "must name the columns path,label"),
            ("path,class\na,b\n", "needs the columns path and either label or labels"),
            ("path,label\n", "lists no videos"),
            ("path,label\na.mp4,\n", "line 2: a path and a label are needed"),
            ("path,label,split\na.mp4,x,dev\nb.mp4,y,val\n", "split 'dev' is not one of train, val, test"),
            ("path,label\na.mp4,x\na.mp4,y\n", r"1 video \('.*/a.mp4'\) is listed more than once"),
            ("path,label,split\na.mp4,x,train\na.mp4,x,val\n", "is in more than one split"),
            ("path,label\na.mp4,x\nb.mp4,x\n", "only one class"),
            ("path,label,start\na.mp4,x,soon\n", "line 2: start 'soon' is no number of seconds"),
            ("path,label,start\na.mp4,x,-1\n", "line 2: start '-1' is no number of seconds"),
            ("path,label,start,end\na.mp4,x,3,3\n", "line 2: end 3 s is not after start 3 s"),
        ],
    )
    def test_what_is_wrong(self, files: Files, text: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            files.read(flat=True, labels_csv=text)


PIECES = [
    *("path,label", "path,labels,start,end,split", "label,youtube_id,time_start,time_end,split", "id,name"),
    *("\n", ",", " ", "\t", '"', "|", "a.mp4", "x/b.mp4", "..", "/", "1", "-1", "1.5", "nan", "inf", "1e9", "name"),
    *("train", "val", "test", "{", "}", "[", "]", ":", '{"a": 1}', '[{"id": 1, "template": "[x]"}]', "null", "\0", "é"),
]
NAMES = ["train.csv", "val.txt", "test.json", "labels.json", "classInd.txt", "trainlist01.txt", "a_test_split1.txt"]


@given(st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(PIECES), max_size=12), min_size=1, max_size=2))
def test_whatever_a_file_holds_it_is_a_manifest_or_one_message(
    tmp_path_factory: pytest.TempPathFactory, texts: dict[str, list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.mp4").touch()
    for name, pieces in texts.items():
        (folder / name).write_text("".join(pieces))
    try:
        manifest = read_annotations([folder / name for name in texts], folder)
    except DataError:
        return
    assert manifest.videos
    assert len({video.key for video in manifest.videos}) == len(manifest.videos)
    assert all(video.key and "." not in video.key for video in manifest.videos)


def test_files_that_cannot_be_read(files: Files, tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("path,label\na.mp4,Pétanque\n".encode("latin-1"))
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    for name, message in (
        ("latin.csv", "cannot be read as UTF-8 text"),
        ("no.parquet", "is no whole Parquet file"),
        ("nowhere.csv", "no such file"),
        ("videos", "is a folder; give the files in it"),
    ):
        with pytest.raises(DataError, match=f"{name}: {message}"):
            read_annotations([tmp_path / name], None)


def test_the_folder_of_the_videos_is_missing(files: Files, tmp_path: Path) -> None:
    for texts in ({"train_csv": "a.mp4 0\nb.mp4 1\n"}, {"labels_csv": "path,label\na.mp4,x\nb.mp4,y\n"}):
        with pytest.raises(
            DataError, match=r"nowhere: no such folder. Give --videos the folder that the paths of .*csv"
        ):
            read_annotations(files.write(**texts), tmp_path / "nowhere")
