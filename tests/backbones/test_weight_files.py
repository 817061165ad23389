"""Files of weights: every format read, every broken file refused with one clear error, folders written whole."""

import argparse
import collections
import json
import os
import pathlib
import pickle
import struct
import sys
import types
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tubelet.backbones import (
    UnknownModel,
    WeightsError,
    create_model,
    load_model,
    load_weights,
    read_weights,
    save_model,
)

SMALL = {"num_classes": 3, "frames": 2, "size": 24, "dim": 24, "depth": 1}


@pytest.fixture
def model():
    return create_model("timesformer_tiny", **SMALL)


def write(kind: str, state: dict, folder: Path) -> Path:
    path = folder / f"weights.{kind.removeprefix('legacy.')}"
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "npz":
        np.savez(path, **{key: value.detach().numpy() for key, value in state.items()})
    else:
        torch.save({"model_state": state}, path, _use_new_zipfile_serialization=not kind.startswith("legacy"))
    return path


def message(source: object) -> str:
    with pytest.raises(WeightsError) as caught:
        read_weights(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["pt", "pth", "bin", "legacy.pyth", "safetensors", "npz"])
@pytest.mark.parametrize("ending", [None, ".pth", ".safetensors", ".safetensors.old", ""])
def test_formats_are_read_whatever_the_ending(kind: str, ending: str | None, model, tmp_path: Path) -> None:
    path = write(kind, model.state_dict(), tmp_path)
    if ending is not None:
        path = path.rename(tmp_path / f"weights{ending}")
    other = create_model("timesformer_tiny", **SMALL)
    assert load_weights(other, str(path)).source == str(path)
    assert torch.equal(other.pos_embed, model.pos_embed)


@pytest.mark.parametrize("kind", ["pt", "legacy.pyth", "safetensors", "npz"])
@pytest.mark.parametrize("keep", [0.02, 0.1, 0.9, 0.999])
def test_a_truncated_file_is_refused(kind: str, keep: float, model, tmp_path: Path) -> None:
    path = write(kind, model.state_dict(), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert "truncated" in message(path) or "damaged" in message(path)


class TestWhatIsPickledBesideTheTensors:
    STATE = {"w": torch.arange(3.0)}  # noqa: RUF012

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize(
        "extra",
        [
            argparse.Namespace(lr=0.1, names=["a"], out=pathlib.PurePosixPath("runs/1")),
            collections.defaultdict(list, {"a": [1]}),
            collections.deque([1, 2], maxlen=3),
            np.float64(0.5),
            np.int64(3),
            np.arange(6.0).reshape(2, 3),
            {"best": np.float32(0.1), "names": np.array(["a", "b"])},
        ],
        ids=lambda extra: type(extra).__name__,
    )
    def test_plain_data_is_no_obstacle(self, extra: object, legacy: bool, tmp_path: Path) -> None:
        content = {"state_dict": self.STATE, "extra": extra}
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        assert read_weights(tmp_path / "a.pt")[0].keys() == {"w"}

    @pytest.mark.parametrize("name", ["yacs.config.CfgNode", "mmengine.logging.history_buffer.HistoryBuffer"])
    def test_classes_that_are_not_installed(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module, _, kind = name.rpartition(".")
        base = dict if kind == "CfgNode" else object
        of_publisher = type(kind, (base,), {"__module__": module})
        parents = [module.rsplit(".", i)[0] for i in range(module.count(".") + 1)]
        for parent in parents:
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        setattr(sys.modules[module], kind, of_publisher)
        extra = of_publisher()
        extra.__dict__ = {"__immutable__": False, "history": np.zeros(2)}
        if base is dict:
            extra["MODEL"] = of_publisher(NAME="swin")
        torch.save({"model": self.STATE, "config": extra}, tmp_path / "a.pt")
        monkeypatch.undo()
        assert read_weights(tmp_path / "a.pt")[0].keys() == {"w"}

    def test_an_object_of_another_class_is_refused_by_name(self, tmp_path: Path) -> None:
        torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "a.pt")
        assert "run code when unpickled (torch.nn.modules.linear.Linear)" in message(tmp_path / "a.pt")

    @pytest.mark.parametrize("call", [os.mkdir, eval, exec, __import__])
    @pytest.mark.parametrize("legacy", [False, True])
    def test_code_is_refused_unopened(self, call, legacy: bool, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        argument = {os.mkdir: str(mark), __import__: "antigravity"}.get(call, f"open({str(mark)!r}, 'w')")

        class Rogue:
            def __reduce__(self):
                return call, (argument,)

        content = {"model": self.STATE, "extra": Rogue()}
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        assert "run code when unpickled" in message(tmp_path / "a.pt")
        assert not mark.exists()
        assert "antigravity" not in sys.modules

    def test_the_allowances_do_not_outlast_the_reading(self, tmp_path: Path) -> None:
        torch.save({"model": self.STATE, "args": argparse.Namespace()}, tmp_path / "a.pt")
        before = set(torch.serialization.get_safe_globals())
        read_weights(tmp_path / "a.pt")
        assert set(torch.serialization.get_safe_globals()) == before
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "a.pt")

    @pytest.mark.filterwarnings("ignore:.*torch.jit")
    def test_a_program_is_refused(self, tmp_path: Path) -> None:
        torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "a.pt"))
        assert "TorchScript program" in message(tmp_path / "a.pt")


class TestAverages:
    PLAIN, MEAN = {"w": torch.zeros(1)}, {"w": torch.ones(1)}

    @pytest.mark.parametrize("name", ["state_dict_ema", "model_ema", "ema_state_dict"])
    def test_plain_weights_go_first(self, name: str, tmp_path: Path) -> None:
        torch.save({name: self.MEAN, "state_dict": self.PLAIN}, tmp_path / "a.pt")
        state, label = read_weights(tmp_path / "a.pt")
        assert not state["w"].any()
        assert label == str(tmp_path / "a.pt")

    @pytest.mark.parametrize("name", ["state_dict_ema", "model_ema", "ema_state_dict"])
    def test_an_average_is_used_and_told_where_there_is_nothing_else(self, name: str, tmp_path: Path) -> None:
        torch.save({name: self.MEAN, "epoch": 3}, tmp_path / "a.pt")
        state, label = read_weights(tmp_path / "a.pt")
        assert state["w"].all()
        assert f"({name}: an average over training, the only weights in it)" in label


def pack(tree: object) -> bytes:
    """As Flax does: arrays are extension type 1, of (shape, name of the dtype, bytes); scalars type 3."""

    def leaf(value: object) -> msgpack.ExtType:
        if isinstance(value, torch.Tensor):  # NumPy has no bfloat16
            content = (tuple(value.shape), "bfloat16", value.view(torch.int16).numpy().tobytes())
            return msgpack.ExtType(1, msgpack.packb(content))
        if isinstance(value, complex):
            return msgpack.ExtType(2, msgpack.packb((value.real, value.imag)))
        array = np.asarray(value)
        content = (array.shape, array.dtype.name, array.tobytes())
        return msgpack.ExtType(1 if isinstance(value, np.ndarray) else 3, msgpack.packb(content))

    return msgpack.packb(tree, default=leaf, strict_types=True)


class TestJax:
    KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

    def test_a_scenic_checkpoint(self, tmp_path: Path) -> None:
        tree = {
            "optimizer": {
                "target": {"Transformer": {"encoderblock_0": {"kernel": self.KERNEL}}, "cls": torch.ones(2).bfloat16()},
                "state": {"step": np.int32(7), "param_states": {"cls": {"momentum": self.KERNEL}}},
            },
            "model_state": {"batch_stats": {"bn": {"mean": self.KERNEL[0]}}},
            "global_step": np.int32(7),
            "accum_train_time": 1.5,
            "phase": 1 + 2j,
            "rng": np.array([0, 1], np.uint32),
        }
        (tmp_path / "checkpoint_100").write_bytes(pack(tree))
        state, _ = read_weights(tmp_path / "checkpoint_100")
        assert state.keys() == {"Transformer/encoderblock_0/kernel", "cls", "batch_stats/bn/mean"}
        assert np.array_equal(state["Transformer/encoderblock_0/kernel"].numpy(), self.KERNEL)
        assert state["cls"].dtype == torch.bfloat16
        assert state["cls"].tolist() == [1, 1]

    @pytest.mark.parametrize("root", [("params",), ("optimizer", "target", "params"), ("target",), ()])
    def test_prefixes_are_taken_off(self, root: tuple[str, ...], tmp_path: Path) -> None:
        tree: dict = {"head": {"kernel": self.KERNEL}}
        for name in reversed(root):
            tree = {name: tree}
        (tmp_path / "model.msgpack").write_bytes(pack({**tree, "opt_state": {"0": {"mu": self.KERNEL}}}))
        assert read_weights(tmp_path / "model.msgpack")[0].keys() == {"head/kernel"}

    def test_large_arrays_come_in_chunks(self, tmp_path: Path) -> None:
        flat = self.KERNEL.reshape(-1)
        chunks = {"0": flat[:10], "1": flat[10:20], "2": flat[20:]}
        shape = {str(axis): size for axis, size in enumerate(self.KERNEL.shape)}
        chunked = {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks}
        (tmp_path / "c").write_bytes(pack({"params": {"kernel": chunked, "bias": self.KERNEL}}))
        state, _ = read_weights(tmp_path / "c")
        assert np.array_equal(state["kernel"].numpy(), self.KERNEL)
        assert state["bias"].shape == (2, 3, 4)

    def test_a_tree_without_what_it_needs_is_refused(self, tmp_path: Path) -> None:
        whole = pack({"params": {"kernel": self.KERNEL}, "step": np.int32(1)})
        (tmp_path / "short").write_bytes(whole[: len(whole) // 2])
        assert "truncated or no checkpoint of Flax" in message(tmp_path / "short")
        broken = msgpack.packb({"w": msgpack.ExtType(1, msgpack.packb(((9, 9), "float32", b"1234")))})
        (tmp_path / "broken").write_bytes(broken)
        assert "truncated or no checkpoint of Flax" in message(tmp_path / "broken")
        rogue = msgpack.packb({"w": msgpack.ExtType(1, msgpack.packb(((1,), "object", b"12345678")))})
        (tmp_path / "rogue").write_bytes(rogue)
        assert "truncated or no checkpoint of Flax" in message(tmp_path / "rogue")

    def test_arrays_of_numpy(self, tmp_path: Path) -> None:
        half = torch.tensor([1.5, -2.0]).bfloat16()
        arrays = {
            "params/Transformer/kernel": self.KERNEL.astype(">f4"),
            "params/cls": half.view(torch.int16).numpy().view("V2"),
            "params/scale": np.float32(3),
            "params/names": np.array(["a", "b"]),
            "opt/mu/cls": self.KERNEL,
        }
        np.savez(tmp_path / "B_16.npz", **arrays)
        state, _ = read_weights(tmp_path / "B_16.npz")
        assert state.keys() == {"Transformer/kernel", "cls", "scale"}
        assert np.array_equal(state["Transformer/kernel"].numpy(), self.KERNEL)
        assert torch.equal(state["cls"], half)
        assert state["scale"].shape == ()

    def test_arrays_of_objects_are_not_unpickled(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", w=np.array([{"a": 1}], dtype=object))
        assert "holds pickled objects" in message(tmp_path / "a.npz")


class TestFolders:
    STATE = {"a.weight": torch.ones(2), "b.weight": torch.zeros(3)}  # noqa: RUF012

    def parts(self, folder: Path, name: str) -> Path:
        stem, ending = name.rsplit(".", 1)
        names = {key: f"{stem}-0000{i}-of-00002.{ending}" for i, key in enumerate(self.STATE, 1)}
        for key, part in names.items():
            save = save_file if ending == "safetensors" else torch.save
            save({key: self.STATE[key]}, folder / part)
        index = folder / f"{name}.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
        return index

    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
    def test_parts_are_joined(self, name: str, tmp_path: Path) -> None:
        index = self.parts(tmp_path, name)
        for source in (tmp_path, index):
            state, _ = read_weights(source)
            assert {key: value.tolist() for key, value in state.items()} == {"a.weight": [1, 1], "b.weight": [0, 0, 0]}

    def test_a_whole_file_goes_before_parts(self, tmp_path: Path) -> None:
        self.parts(tmp_path, "pytorch_model.bin")
        save_file({"c": torch.ones(1)}, tmp_path / "model.safetensors")
        assert read_weights(tmp_path)[0].keys() == {"c"}

    def test_a_part_that_is_not_there(self, tmp_path: Path) -> None:
        index = self.parts(tmp_path, "model.safetensors")
        (tmp_path / "model-00002-of-00002.safetensors").unlink()
        assert "lists 2 parts, of which model-00002-of-00002.safetensors is not there" in message(tmp_path)
        save_file({"other": torch.ones(1)}, tmp_path / "model-00002-of-00002.safetensors")
        assert "lists b.weight, which is in none of its parts" in message(tmp_path)
        index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
        assert "../elsewhere.safetensors is not there" in message(tmp_path)
        index.write_text("[]")
        assert "is no index of weights in parts" in message(tmp_path)

    def test_without_weights(self, tmp_path: Path) -> None:
        assert "without a model.safetensors or a pytorch_model.bin" in message(tmp_path)
        (tmp_path / "epoch_3.pth").write_bytes(b"")
        assert f"name the file of weights itself, such as {tmp_path / 'epoch_3.pth'}" in message(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty; download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "only a pointer of git-lfs"),
        (b"\n <!DOCTYPE html><html>Google Drive - Virus scan warning", "is a web page, not weights"),
        (b"<html><head>404</head></html>", "is a web page, not weights"),
        (b"Not Found", "is no PyTorch, safetensors, .npz or Flax file: it begins with b'Not Found'"),
        (b"\x1f\x8b\x08\x00", "is compressed (gzip); unpack it first"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\x93NUMPY\x01\x00", "is a single array of NumPy"),
        (b"\x00" * 257 + b"ustar\x0000", "is a tar archive"),
        (b"PK\x03\x04" + b"\x00" * 60, "is truncated or damaged"),
        (b"\x80\x02}q\x00.", "is a plain pickle"),
        (b"\x80\x02}q", "truncated or damaged"),
        (b"\xef\xbb\xbf<!-- sign in --><html>", "is a web page, not weights"),
        (pickle.dumps({"a": 1}, protocol=4), "is a plain pickle, which could run code"),
        (struct.pack("<Q", 1 << 40) + b"{" + b" " * 50, "truncated or no safetensors file"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "model.safetensors"])
def test_what_is_no_file_of_weights_is_told_apart(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert says in message(tmp_path / name)


def test_an_optimizers_state_is_told(model, tmp_path: Path) -> None:
    state = torch.optim.AdamW(model.parameters()).state_dict()
    for content in (state, {"optimizer": state, "epoch": 3}, {"optimizer_state_dict": {"zero_stage": 2}}):
        torch.save(content, tmp_path / "optim.pt")
        assert "optim.pt holds the state of an optimizer and no weights; name the file" in message(
            tmp_path / "optim.pt"
        )


def test_tensors_without_plain_values_are_told(model, tmp_path: Path) -> None:
    state = model.state_dict()
    sharded = {key: torch.empty(0) for key in state}
    sparse = state | {"head.weight": state["head.weight"].to_sparse()}
    torch.save({"module": sharded}, tmp_path / "mp_rank_00_model_states.pt")
    torch.save(sparse, tmp_path / "sparse.pt")
    assert "gather them with the zero_to_fp32.py" in message(tmp_path / "mp_rank_00_model_states.pt")
    assert "sparse.pt holds head.weight as a sparse tensor; save it after .to_dense()" in message(
        tmp_path / "sparse.pt"
    )


def test_what_holds_no_tensors_is_refused(model, tmp_path: Path) -> None:
    assert "nowhere.pt; name another, or an id that `tubelet models --weights`" in message(tmp_path / "nowhere.pt")
    assert "holds no tensors" in message({"epoch": 3})
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds a list" in message(tmp_path / "list.pt")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.pt").touch()
    monkeypatch.setattr(Path, "open", refuse)
    assert f"{tmp_path / 'a.pt'} cannot be read (Permission denied)" in message(tmp_path / "a.pt")


def test_a_saved_model_comes_back(model, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    save_model(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode
    assert "clip" not in json.loads((folder / "config.json").read_text())
    again = load_model(folder)
    clip = torch.randn(1, 3, 2, 24, 24)
    assert torch.equal(again.eval()(clip), model.eval()(clip))
    assert again.config == model.config
    save_model(again, folder)
    assert load_weights(model, folder).total == len(model.state_dict())


def test_a_saved_model_is_refused_when_its_configuration_is_not_ours(model, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "timesformer"}))
    with pytest.raises(WeightsError, match="names no model of ours"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"name": str(tmp_path)}))
    with pytest.raises(UnknownModel):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_model(tmp_path)
