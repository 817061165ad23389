"""The commands as a user starts them: real launcher, real encoded videos, two processes."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pandas
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file

TINY = ("--model", "timesformer_tiny", "--model-args", "dim=32", "depth=2", "heads=2", "--workers", "1")
TINY_CNN = ("--model", "r3d_tiny", "--model-args", "width=8", "--workers", "1")


def deepspeed(start, port: int, processes: int, *words: object):
    launcher = ("deepspeed", "--master_port", port, "--num_accelerators", processes)
    return start(*launcher, "launch/train.py", *TINY, *words)


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    training = [line for line in lines if line["kind"] == "train"]
    assert len({line["step"] for line in training}) == len(training), "a step stands twice in the log"
    return {line["step"]: line["loss"] for line in training}


def test_the_whole_way_in_two_processes(start, dataset: Path, tmp_path: Path, free_port: int) -> None:
    """By the programs as they are installed."""
    run, embeddings = tmp_path / "two", tmp_path / "embeddings"
    words = ("--data", dataset, "--out", run, "--epochs", 2, "--batch-size", 2, "--accumulate", 2, "--log-every", 1)
    done = deepspeed(start, free_port, 2, *words, "--zero-stage", 1, "--views", "2x3").wait()
    assert done.code == 0, done.out
    assert f"the run is in {run}" in done.out
    assert "epoch 2/2: per video top-1" in done.out
    assert len(losses(run)) == 2 * 2  # 16 training videos, 8 a step
    for name in ("clips.png", "curves.png", "config.yaml", "environment.json"):
        assert (run / name).stat().st_size > 100
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["frames"] == 8
    assert list((run / "tensorboard").iterdir())

    evaluated = start("tubelet", "evaluate", "--checkpoint", run, "--data", dataset).wait()
    assert evaluated.code == 0, evaluated.out
    assert "per video top-1" in evaluated.out
    assert "(8 videos, 6 views each)" in evaluated.out

    words = ("--checkpoint", run, "--data", dataset, "--out", embeddings, "--clips", 2)
    embedded = start("tubelet", "embed", *words).wait()
    assert embedded.code == 0, embedded.out
    frame = pandas.read_parquet(embeddings)
    assert list(frame.columns) == ["key", "split", "label", "start", "end", "vector"]
    assert len(frame) == 24 * 2
    assert frame.key.nunique() == 24
    assert (frame.label == frame.key.str.split("/").str[0]).all()
    assert (frame.end > frame.start).all()
    assert {len(vector) for vector in frame.vector} == {32}
    about = json.loads(pq.read_schema(next(embeddings.glob("*.parquet"))).metadata[b"tubelet"])
    assert about["model"]["name"] == "timesformer_tiny"


def test_a_run_killed_in_the_middle_goes_on_with_the_same_losses(
    ranks, tubelet, dataset: Path, tmp_path: Path, free_port: int
) -> None:
    straight, run = tmp_path / "straight", tmp_path / "killed"
    words = ("train", *TINY, "--data", dataset, "--epochs", 6, "--batch-size", 4, "--log-every", 1, "--eval-every", 0)
    words += ("--save-steps", 3, "--keep", 1)
    words += ("--model-args", "dim=32", "depth=2", "heads=2", "drop_path=0.2", "dropout=0.1")
    words += ("--rand-augment", "m7-n4-mstd0.5-inc1", "--color-jitter", 0.4, 0.4, 0.4, 0.1, "--erasing", 0.5)
    words += ("--mixup", 0.8, "--cutmix", 1.0, "--label-smoothing", 0.1)
    ended = [rank.wait() for rank in ranks(free_port, *words, "--out", straight)]
    assert [one.code for one in ended] == [0, 0], ended[0].out

    started = ranks(free_port, *words, "--out", run)
    deadline = time.monotonic() + 120
    log = run / "log.jsonl"
    while time.monotonic() < deadline and not (log.exists() and '"step": 5' in log.read_text()):
        time.sleep(0.02)
    for rank in started:
        rank.kill()
    done_steps = max(losses(run))
    assert 5 <= done_steps < 12, "not killed in the middle"
    assert (run / "checkpoints" / "latest").exists()

    refused = tubelet(*words, "--out", run)
    assert refused.code == 1
    assert "already holds a run. Add --resume auto" in refused.out

    ended = [rank.wait() for rank in ranks(free_port, *words, "--out", run, "--resume", "auto")]
    assert [one.code for one in ended] == [0, 0], ended[0].out
    assert "going on at step" in ended[0].out
    assert losses(run) == losses(straight)
    last = "checkpoints/step-00000012/model.safetensors"
    ours, theirs = load_file(run / last), load_file(straight / last)
    assert all((ours[name] == theirs[name]).all() for name in theirs)


@pytest.mark.parametrize("model", [TINY, TINY_CNN], ids=["attention", "convolution and batch norm"])
def test_bf16_zero_2_with_accumulation_and_checkpointing(
    tubelet, dataset: Path, tmp_path: Path, model: tuple[str, ...]
) -> None:
    words = ("train", *model, "--data", dataset, "--out", tmp_path / "run", "--epochs", 1, "--batch-size", 8)
    system = ("--precision", "bf16", "--zero-stage", 2, "--accumulate", 2, "--grad-checkpointing")
    done = tubelet(*words, *system)
    assert done.code == 0, done.out
    assert losses(tmp_path / "run")[1] == pytest.approx(1.39, abs=0.5)


def test_srun_and_torchrun_take_the_same_script(start, dataset: Path, tmp_path: Path, free_port: int) -> None:
    # Which clips are mirrored is drawn by each process for itself.
    words = (*TINY, "--data", dataset, "--epochs", 1, "--eval-every", 0, "--flip", 0)
    slurm = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}  # what srun sets
    slurm |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port + 1)}  # and what its job script does
    words_alone = (*words, "--batch-size", 8, "--out", tmp_path / "alone")
    alone = start("python", "launch/train.py", *words_alone, **slurm).wait()
    assert alone.code == 0, alone.out
    launcher = ("torchrun", "--nproc-per-node", 2, "--master-port", free_port)
    two = start(*launcher, "launch/train.py", *words, "--batch-size", 4, "--out", tmp_path / "two").wait()
    assert two.code == 0, two.out
    one, other = losses(tmp_path / "alone"), losses(tmp_path / "two")
    assert one.keys() == other.keys()
    assert list(one.values()) == pytest.approx(list(other.values()), rel=1e-5)


class TestTheWrongWayRound:
    """Each mistake gets one message, no traceback, and an exit code that is not 0."""

    @pytest.fixture(scope="class")
    def trained(self, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A run of a model with random weights, without the time to train one."""
        from tubelet.pipeline.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
        from tubelet.pipeline.training.train import train

        run = tmp_path_factory.mktemp("trained") / "run"
        config = TrainConfig(
            ModelConfig("timesformer_tiny", model_args={"dim": 32, "depth": 1, "heads": 2}),
            DataConfig(str(dataset), batch_size=8, workers=0),
            optim=OptimConfig(epochs=1),
            run=RunConfig(out=run, eval_every=0),
        )
        before = signal.getsignal(signal.SIGTERM), threading.active_count()
        done = train(config)
        assert (signal.getsignal(signal.SIGTERM), threading.active_count()) == before, "a run leaves nothing behind"
        return done

    def fails(self, done, *parts: str) -> None:
        assert done.code not in (0, None), done.out
        assert "Traceback" not in done.out, done.out
        flat = " ".join(done.out.replace("│", " ").split())
        for part in parts:
            assert part in flat, done.out

    def test_unknown_command(self, start) -> None:
        self.fails(start("tubelet", "trian").wait(), "no command 'trian'. Did you mean train?")

    def test_unknown_option(self, tubelet) -> None:
        self.fails(tubelet("train", "--epoch", 3), "--epoch", "--epochs")

    def test_no_arguments(self, tubelet) -> None:
        self.fails(tubelet("train"), "training needs --model NAME, --data DIR, --out RUN")
        self.fails(tubelet("embed"), "embedding needs")

    @pytest.mark.slow
    def test_no_arguments_but_a_model_under_a_launcher(self, start, free_port: int) -> None:
        launcher = ("deepspeed", "--master_port", free_port, "--num_accelerators", 2)
        done = start(*launcher, "launch/train.py", "--model", "timesformer").wait(90)
        prepare = "tubelet prepare --videos FOLDER_OF_CLASSES --out shards"
        train = "deepspeed launch/train.py --model timesformer --data shards --out run"
        self.fails(done, f"training needs --data DIR, --out RUN. The shortest way there: {prepare} && {train}")
        assert done.out.count("training needs") == 1, done.out

    @pytest.mark.slow
    def test_unknown_option_under_a_launcher(self, start, free_port: int) -> None:
        launcher = ("deepspeed", "--master_port", free_port, "--num_accelerators", 2)
        done = start(*launcher, "launch/train.py", "--epoch", 3).wait(90)
        self.fails(done, "--epoch", "--epochs")
        assert done.out.count("Unrecognized options:") == 1, done.out

    def test_unknown_model(self, start, dataset: Path, tmp_path: Path) -> None:
        words = ("train", "--model", "timesfromer", "--data", dataset, "--out", tmp_path / "run")
        self.fails(start("tubelet", *words).wait(), "timesfromer", "timesformer")

    def test_folder(self, tubelet, tmp_path: Path) -> None:  # the others are in tests/datasets/test_manifest.py
        self.fails(tubelet("prepare", "--videos", tmp_path / "no", "--out", tmp_path / "out"), "no such folder")

    def test_data(self, tubelet, tmp_path: Path) -> None:
        words = ("train", "--model", "timesformer_tiny", "--data", tmp_path, "--out", tmp_path / "run")
        self.fails(tubelet(*words), "it is not a prepared dataset")

    def test_views(self, tubelet, trained: Path, dataset: Path) -> None:
        done = tubelet("evaluate", "--checkpoint", trained, "--data", dataset, "--views", "0x3")
        self.fails(done, "views: views are temporal x spatial, such as 4x3", "got '0x3'")

    def test_more_ranks_than_videos(self, ranks, tmp_path: Path, videos: Path, tubelet, free_port: int) -> None:
        words = ("--videos", videos, "--out", tmp_path / "few", "--split", "0.95", "--check", "packets")
        assert tubelet("prepare", *words).code == 0  # one training video of each class
        words = ("--data", tmp_path / "few", "--out", tmp_path / "run", "--accumulate", 3)
        done = ranks(free_port, "train", *TINY, *words)[0].wait()
        self.fails(done, "4 training videos are too few for 2 ranks x 3 accumulated batches")

    def test_checkpoint_of_another_model(self, tubelet, trained: Path, dataset: Path, tmp_path: Path) -> None:
        words = ("train", *TINY, "--data", dataset, "--out", trained, "--resume", "auto", "--epochs", 2)
        self.fails(tubelet(*words), "is of another model: depth was 1 and is now 2")
        weights = trained / "checkpoints" / "step-00000002" / "model.safetensors"
        words = ("train", "--model", "timesformer_tiny", "--weights", weights, "--data", dataset)
        self.fails(tubelet(*words, "--out", tmp_path / "run"), "32", "96")

    def test_checkpoint_of_other_classes(self, tubelet, trained: Path, videos: Path, tmp_path: Path) -> None:
        labels = tmp_path / "labels.csv"
        rows = [f"{path.relative_to(videos)},{'up' if i % 2 else 'left'}" for i, path in enumerate(videos.rglob("*.*"))]
        labels.write_text("\n".join(["path,label", *rows]))
        words = ("--labels", labels, "--videos", videos, "--out", tmp_path / "other", "--check", "packets")
        assert tubelet("prepare", *words).code == 0
        done = tubelet("evaluate", "--checkpoint", trained, "--data", tmp_path / "other")
        self.fails(done, "tells 4 classes apart", "has 2", "3 are missing, such as 'anticlockwise'", "such as 'up'")

    def test_parts_of_videos_with_several_labels(self, tubelet, trained: Path, videos: Path, tmp_path: Path) -> None:
        """They are embedded, each from its own part of the file; training on them needs a loss for it."""
        file = next(path.relative_to(videos) for path in sorted(videos.rglob("*.mp4")))
        labels = tmp_path / "labels.csv"
        labels.write_text(f"path,labels,start,end\n{file},a|b,0,0.4\n{file},b,0.5,\n")
        words = ("--labels", labels, "--videos", videos, "--out", tmp_path / "several", "--split", "train")
        assert tubelet("prepare", *words).code == 0
        done = tubelet("train", *TINY, "--data", tmp_path / "several", "--out", tmp_path / "run")
        self.fails(done, "several, train: its videos have several labels each. Train on them with --loss bce")
        run = tmp_path / "run"
        done = tubelet("train", *TINY, "--data", tmp_path / "several", "--out", run, "--loss", "bce", "--batch-size", 1)
        assert done.code == 0, done.out
        done = tubelet("evaluate", "--checkpoint", run, "--data", tmp_path / "several", "--split", "train")
        assert "mAP" in done.out, done.out
        words = ("--checkpoint", trained, "--data", tmp_path / "several")
        self.fails(tubelet("evaluate", *words, "--split", "train"), "tells 4 classes apart", "has 2")
        done = tubelet("embed", *words, "--out", tmp_path / "embeddings")
        assert done.code == 0, done.out
        frame = pandas.read_parquet(tmp_path / "embeddings").sort_values("start")
        assert [list(labels) for labels in frame.labels] == [["a", "b"], ["b"]]
        assert frame.end.iloc[0] < 0.6
        assert frame.start.iloc[1] >= 0.5

    def test_values_out_of_range(self, tubelet, trained: Path, dataset: Path) -> None:
        words = ("evaluate", "--checkpoint", trained, "--data", dataset)
        self.fails(tubelet(*words, "--batch-size", 0), "batch_size: input should be greater than or equal to 1, got 0")

    def test_no_checkpoint(self, tubelet, dataset: Path, tmp_path: Path) -> None:
        done = tubelet("evaluate", "--checkpoint", tmp_path / "no", "--data", dataset)
        self.fails(done, "no such folder. --checkpoint takes the --out of a training run")

    def test_fp16_on_a_cpu(self, tubelet, dataset: Path, tmp_path: Path) -> None:
        words = ("train", *TINY, "--data", dataset, "--out", tmp_path / "run", "--precision", "fp16")
        self.fails(tubelet(*words), "--precision fp16 needs fp32 copies of the weights")
        self.fails(tubelet(*words, "--zero-stage", 1), "--precision fp16 needs a GPU")


def test_help_names_defaults_and_units(start, tubelet) -> None:
    assert "prepare" in start("tubelet", "--help").wait().out
    for command in ("prepare", "train"):
        done = tubelet(command, "--help")
        assert done.code == 0
        assert "default" in done.out
        assert "Seconds" in done.out
        assert "none|PATH" in done.out
        assert "None" not in done.out


def test_models_lists_parameters_and_macs(tubelet) -> None:
    done = tubelet("models", "--match", "timesformer")
    assert done.code == 0, done.out
    assert "121.57" in done.out
    assert "195.8" in done.out


def test_doctor_says_what_is_missing(tubelet) -> None:
    done = tubelet("doctor")
    assert done.code == 0, done.out
    for word in ("torch", "deepspeed", "decoders", "pyav", "accelerators"):
        assert word in done.out
