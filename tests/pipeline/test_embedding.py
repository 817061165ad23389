"""What is stored of videos, what is found in it, and the object for one's own code."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet.backbones import create_model, list_models, save_model
from tubelet.datasets import DataError
from tubelet.pipeline import Embedder
from tubelet.pipeline.embedding.embed import EmbedConfig, embed
from tubelet.pipeline.embedding.network import Vectors
from tubelet.pipeline.embedding.parts import Index, plan_parts
from tubelet.pipeline.embedding.probe import ProbeConfig, folds, probe
from tubelet.pipeline.embedding.search import SearchConfig, lines, search
from tubelet.pipeline.errors import ConfigError, RunError
from tubelet.video import VideoError, Windows

sys.path.append(str(Path(__file__).parent))
from embedding_tools import save_run, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tiny(), tmp_path_factory.mktemp("embedding") / "run")


@pytest.fixture(scope="module")
def index(run: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "embeddings"
    return embed(EmbedConfig(run, str(dataset), out=out, clips=2, workers=0, store="fp32"))


def table(folder: Path) -> pandas.DataFrame:
    return pandas.read_parquet(folder)


def vectors(folder: Path) -> np.ndarray:
    return np.stack(table(folder).vector).astype(np.float32)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200), st.none() | st.floats(0.1, 2000))
def test_parts_hold_each_video_once(sizes: list[int], part_mb: float | None) -> None:
    array = np.array(sizes, np.int64)
    parts = plan_parts(array, part_mb)
    assert [number for part in parts for number in part] == list(range(len(sizes)))
    if part_mb:
        assert all(array[part].sum() >= part_mb * 1e6 for part in parts[:-1])
        assert all(array[part[:-1]].sum() < part_mb * 1e6 for part in parts)


class TestLayers:
    @pytest.mark.parametrize("name", list_models("*_tiny"))
    def test_any_layer_gives_each_clip_its_own_vector(self, name: str) -> None:
        """Of two clips at once as of each alone, whatever a network folds into its batch; and as many numbers as the
        layer has channels."""
        torch.manual_seed(0)
        model = create_model(name, num_classes=3).eval()
        clip = model.clip
        clips = torch.randn(2, 3, clip.frames, clip.size, clip.size)
        names = [layer for layer, module in model.named_modules() if layer]
        # Networks rarely call all of their modules: weights of attention may be read without a call.
        tried = [n for n in names if n.count(".") <= 1 and not n.startswith("head")]
        worked = 0
        for layer in tried[:: max(1, len(tried) // 6)]:
            try:
                network = Vectors(model, layer)
            except ConfigError as error:
                assert "does not run it" in str(error) or "which is not of" in str(error)  # noqa: PT017
                continue
            with torch.inference_mode():
                both = network(clips)
                alone = torch.cat([network(clips[:1]), network(clips[1:])])
            assert both.shape == (2, network.features)
            torch.testing.assert_close(both, alone, rtol=1e-3, atol=1e-4)
            worked += 1
        assert worked >= 2

    def test_a_layer_of_tokens_is_averaged_over_them(self) -> None:
        model = tiny()
        clips = torch.randn(2, 3, 8, 48, 48)
        with torch.inference_mode():
            tokens = model.forward_features(clips)
            torch.testing.assert_close(Vectors(model, "norm")(clips), tokens.flatten(1, -2).mean(1))
            assert torch.equal(Vectors(model)(clips), model.embed(clips))
            torch.testing.assert_close(Vectors(model, "head")(clips), model(clips))

    def test_channels_of_convolutions_come_first(self) -> None:
        model = create_model("r3d_tiny").eval()
        clips = torch.randn(1, 3, 8, 48, 48)
        kept = []
        model.get_submodule("layer2")[-1].register_forward_hook(lambda module, inputs, output: kept.append(output))
        with torch.inference_mode():
            got = Vectors(model, "layer2")(clips)
        assert kept[-1].ndim == 5
        torch.testing.assert_close(got, kept[-1].mean((2, 3, 4)))

    def test_one_that_does_not_exist_lists_those_that_do(self) -> None:
        with pytest.raises(ConfigError, match=r"(?s)--layer blocks\.9: .*blocks\.0\.attn"):
            Vectors(tiny(), "blocks.9")


class TestStored:
    def test_columns_metadata_and_vectors(self, index: Path, run: Path, videos: Path) -> None:
        frame = table(index)
        assert list(frame.columns) == ["key", "split", "label", "start", "end", "vector"]
        assert len(frame) == 48
        assert (frame.label == frame.key.str.split("/").str[0]).all()
        about = json.loads(pq.read_schema(next(index.glob("*.parquet"))).metadata[b"tubelet"])
        assert about["model"]["name"] == "timesformer_tiny"
        assert about["windows"] == {**about["windows"], "frames": 8, "length": 16, "count": 2}
        embedder = Embedder(run, clips=2)
        for key, mine in frame.groupby("key"):
            file = next(videos.glob(f"{key}.*"))
            seconds, expected = embedder.embed_clips(file)
            np.testing.assert_allclose(np.stack(mine.vector), expected, atol=1e-5)
            np.testing.assert_allclose(mine[["start", "end"]], seconds)

    def test_pooled_normalised_and_in_half(self, index: Path, run: Path, dataset: Path, tmp_path: Path) -> None:
        config = EmbedConfig(run, str(dataset), out=tmp_path / "e", clips=2, workers=0, pool="video", normalize=True)
        frame = table(embed(config))
        means = table(index).groupby("key", sort=False).vector.apply(lambda each: np.stack(each).mean(0))
        assert list(frame.key) == list(means.index)
        got, expected = np.stack(frame.vector), np.stack(means)
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=2e-3)
        spans = table(index).groupby("key", sort=False).agg({"start": "min", "end": "max"})
        np.testing.assert_allclose(frame[["start", "end"]], spans)

    def test_a_bad_video_is_named_and_the_others_are_there(
        self, run: Path, videos: Path, tmp_path: Path, capsys
    ) -> None:
        files = [*sorted(videos.rglob("*.mp4"))[:2], tmp_path / "bad.mp4"]
        (tmp_path / "bad.mp4").write_bytes(b"no video")
        (tmp_path / "list.txt").write_text("\n".join(map(str, files)))
        for _ in range(2):  # also when there is nothing left to do
            out = embed(EmbedConfig(run, str(tmp_path / "list.txt"), out=tmp_path / "e", workers=0, pool="video"))
            assert len(table(out)) == 2
            assert "1 videos could not be read" in capsys.readouterr().out
        (tmp_path / "only.txt").write_text(str(files[-1]))
        with pytest.raises(DataError, match="none of 1 videos can be read"):
            embed(EmbedConfig(run, str(tmp_path / "only.txt"), out=tmp_path / "f", workers=0))

    def test_what_does_not_go_together(self, run: Path, index: Path, dataset: Path, tmp_path: Path) -> None:
        config = EmbedConfig(run, str(dataset), out=index, workers=0)
        with pytest.raises(ConfigError, match=r"made otherwise: about was .* and is now"):
            embed(config)
        with pytest.raises(ConfigError, match="--clip-frames and --clip-seconds"):
            embed(replace(config, clip_frames=3, clip_seconds=1.0))
        with pytest.raises(ConfigError, match="--every-frames and --every-seconds"):
            embed(replace(config, every_frames=3, every_seconds=1.0))
        with pytest.raises(ConfigError, match="--clips spreads"):
            embed(replace(config, every_frames=3, clips=2))
        with pytest.raises(RunError, match="no checkpoint given"):
            embed(replace(config, checkpoint=None))
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="is a file"):
            embed(replace(config, out=tmp_path / "file"))
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "x.parquet").write_text("")
        with pytest.raises(ConfigError, match=r"other Parquet files \(x\.parquet\)"):
            embed(replace(config, out=tmp_path / "other"))
        with pytest.raises(ConfigError, match="cannot be written"):
            embed(replace(config, out=Path("/proc/embeddings")))

    def test_checkpoints_that_are_none(self, run: Path, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="names no classes"):
            Embedder(save_run(tiny(), tmp_path / "nameless", classes=()))
        save_run(tiny(), tmp_path / "cut")
        (tmp_path / "cut" / "checkpoint.json").write_text('{"step": 1}')
        with pytest.raises(RunError, match="missing or damaged"):
            Embedder(tmp_path / "cut")


class TestSearch:
    def test_exact_and_without_itself(self, index: Path) -> None:
        frame, stored = table(index), vectors(index)
        key = frame.key[7]
        found = search(SearchConfig(index, key=key, top=5))
        query = stored[frame.key == key].mean(0)
        cosine = stored @ query / np.linalg.norm(stored, axis=1) / np.linalg.norm(query)
        cosine[frame.key == key] = -2
        best = np.argsort(-cosine)[:5]
        assert [(each.key, each.start) for each in found] == list(zip(frame.key[best], frame.start[best], strict=True))
        np.testing.assert_allclose([each.similarity for each in found], cosine[best], atol=1e-5)
        everything = search(SearchConfig(index, key=key, top=1000))
        assert len(everything) == 46
        shown = list(lines(everything[:3], as_json=False))
        assert len(shown) == 4
        assert found[0].key in shown[1]

    def test_in_blocks_as_at_once(self, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        query = SearchConfig(index, key=table(index).key[0], top=7)
        at_once = search(query)
        monkeypatch.setattr("tubelet.pipeline.embedding.search._ROWS", 5)
        assert [(each.key, each.start) for each in search(query)] == [(each.key, each.start) for each in at_once]

    def test_by_a_video(self, index: Path, run: Path, videos: Path, tmp_path: Path) -> None:
        file = next(videos.rglob("*.mp4"))
        found = search(SearchConfig(index, video=file, top=2))
        assert file.stem in {Path(each.key).name for each in found}
        assert found[0].similarity > 0.99
        other = save_run(tiny(seed=1), tmp_path / "other")
        with pytest.raises(ConfigError, match="timesformer_tiny with other weights"):
            search(SearchConfig(index, video=file, checkpoint=other))

    def test_what_cannot_be_searched(self, index: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="give one of them"):
            search(SearchConfig(index))
        with pytest.raises(ConfigError, match="has no video of that key"):
            search(SearchConfig(index, key="gone"))
        with pytest.raises(DataError, match="holds no embeddings"):
            search(SearchConfig(tmp_path, key="x"))


class TestProbe:
    @given(st.lists(st.integers(0, 4), min_size=6, max_size=60), st.integers(2, 5), st.integers(0, 9))
    def test_folds_try_each_video_once(self, labels: list[int], count: int, seed: int) -> None:
        array = np.array(labels)
        if np.bincount(array).max() < count:
            with pytest.raises(DataError):
                list(folds(array, count, seed))
            return
        trials = list(folds(array, count, seed))
        assert (sum(tried for _, tried in trials) == 1).all()
        assert all((learn == ~tried).all() for learn, tried in trials)
        for number in np.unique(array):  # evenly
            assert np.ptp([(array[tried] == number).sum() for _, tried in trials]) <= 1

    def test_what_can_be_told_apart_is(self, index: Path, tmp_path: Path) -> None:
        """The same index with vectors that say the class exactly, and with ones that say nothing."""
        for informative, low, high in ((True, 1.0, 1.0), (False, 0.0, 0.7)):
            folder = altered(index, tmp_path / str(informative), informative)
            result = probe(ProbeConfig(folder))
            assert result.how == "16 videos of train, 8 of val"
            assert low <= result.linear <= high
            assert low <= result.knn <= high
            crossed = probe(
                ProbeConfig(altered(index, tmp_path / f"{informative}-x", informative, splits=False), folds=3)
            )
            assert crossed.how == "3-fold cross-validation over 24 videos"
            assert low <= crossed.linear <= high
            assert low <= crossed.knn <= high

    def test_without_labels(self, run: Path, videos: Path, tmp_path: Path) -> None:
        (tmp_path / "list.txt").write_text("\n".join(map(str, sorted(videos.rglob("*.*"))[:3])))
        out = embed(EmbedConfig(run, str(tmp_path / "list.txt"), out=tmp_path / "e", workers=0))
        with pytest.raises(DataError, match="labels of 0 classes"):
            probe(ProbeConfig(out))


def altered(index: Path, folder: Path, informative: bool, splits: bool = True) -> Path:
    folder.mkdir()
    (folder / "_embedding.json").write_text((index / "_embedding.json").read_text())
    rng = np.random.default_rng(0)
    for file in Index(index).files:
        rows = pq.read_table(file)
        frame = rows.to_pandas()
        numbers = frame.label.map({name: number for number, name in enumerate(sorted(table(index).label.unique()))})
        width = len(frame.vector[0])
        frame["vector"] = [np.eye(width)[n] if informative else rng.normal(size=width) for n in numbers]
        frame["split"] = frame.split if splits else None
        pq.write_table(
            rows.schema.empty_table().from_pandas(frame, rows.schema, preserve_index=False), folder / file.name
        )
    return folder


class TestEmbedder:
    def test_three_lines(self, run: Path, videos: Path) -> None:
        file = next(videos.rglob("*.mp4"))
        embedder = Embedder(run)
        scores = embedder.predict(file)
        assert set(scores) == {"a", "b", "c", "d"}
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert abs(sum(scores.values()) - 1) < 1e-5
        vector = embedder.embed(file)
        assert vector.shape == (32,)
        np.testing.assert_allclose(embedder.embed(file.read_bytes()), vector)
        with pytest.raises(VideoError, match="no such file"):
            embedder.embed("gone.mp4")

    def test_weights_without_names_of_classes(self, videos: Path, tmp_path: Path) -> None:
        """Of a folder that holds a model and nothing of a training, as `tubelet convert` writes it."""
        save_model(tiny(), tmp_path / "converted")
        file = next(videos.rglob("*.mp4"))
        with pytest.raises(ConfigError, match=r"without the names of their 4 classes.*classes="):
            Embedder(tmp_path / "converted").predict(file)
        with pytest.raises(ConfigError, match="2 names of classes for a network that tells 4 apart"):
            Embedder(tmp_path / "converted", classes=["a", "b"]).predict(file)
        assert set(Embedder(tmp_path / "converted", classes=list("wxyz")).predict(file)) == set("wxyz")

    def test_a_long_video_slides(self, run: Path, videos: Path) -> None:
        file = next(videos.rglob("*.mp4"))
        seconds, each = Embedder(run, windows=Windows(8, seconds=0.3, every_seconds=0.1)).embed_clips(file)
        assert len(each) == len(seconds) > 2
        assert np.allclose(np.diff(seconds[:, 0]), 0.1, atol=0.1)

    def test_the_package_is_light_until_it_is_asked_for(self) -> None:
        code = (
            "import sys, tubelet.pipeline; assert 'torch' not in sys.modules; tubelet.pipeline.Embedder; import torch"
        )
        assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
        with pytest.raises(ImportError):
            from tubelet.pipeline import Embeder  # type: ignore[attr-defined]  # noqa: F401
