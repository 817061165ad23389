"""Swin and Video Swin: windows against their definition, one block computed three ways, lifts, layouts, resizing."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tubelet.backbones import WeightsError, create_model, load_weights
from tubelet.backbones.image.swin import attend_biased
from tubelet.backbones.lift.windows import permute, relative_positions, resize_table, windows_over

State = dict[str, Tensor]
IMAGE = {"dim": 8, "depths": [2, 2], "heads": [1, 2], "window": [3, 2], "patch": 2, "mlp_ratio": 2, "num_classes": 5}
VIDEO = {**IMAGE, "window": [2, 3, 2], "patch": [2, 2, 2], "head_dropout": 0.0, "drop_path": 0.0}
axis = st.tuples(st.integers(1, 9), st.integers(1, 4)).flatmap(
    lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(0, pair[1] - 1))
)


def randomised(name: str, **arguments: object) -> nn.Module:
    model = create_model(name, **((IMAGE if name.startswith("swin") else VIDEO) | arguments)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.double()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_definition(grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> dict[int, dict]:
    """Which window each token of the padded, then rolled grid falls into, its place there, and which piece of it the
    roll brought from where."""
    found = {}
    padded = [-(-side // w) * w for side, w in zip(grid, window, strict=True)]
    for token, where in enumerate(itertools.product(*map(range, grid))):
        rolled = [(x - s) % p for x, s, p in zip(where, shift, padded, strict=True)]
        found[token] = {
            "window": tuple(x // w for x, w in zip(rolled, window, strict=True)),
            "place": int(torch.tensor([x % w for x, w in zip(rolled, window, strict=True)]).dot(_strides(window))),
            "wrapped": tuple(x >= p - s for x, p, s in zip(rolled, padded, shift, strict=True)),
        }
    return found


def _strides(window: tuple[int, ...]) -> Tensor:
    return torch.tensor([torch.tensor(window[i + 1 :]).prod().item() for i in range(len(window))]).long()


@given(st.lists(axis, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_windows_are_those_of_the_definition(axes: list[tuple[int, int, int]]) -> None:
    grid, window, shift = zip(*axes, strict=True)
    windows = windows_over(torch.zeros(1, *grid, 1), window, shift, shrink=False)
    shift = tuple(0 if side <= w else s for side, w, s in axes)
    expected, length = by_definition(grid, window, shift), torch.tensor(grid).prod().item()
    assert torch.equal(windows.order[windows.places], torch.arange(length))
    filled = torch.arange(length) if windows.padding is None else windows.padding.filled
    size = torch.tensor(window).prod().item()
    masks = [mask for count, mask in windows.masks for _ in range(count)]
    members: dict[int, list[tuple[int, int]]] = {}
    for place, token in zip(filled.tolist(), windows.order.tolist(), strict=True):
        assert place % size == expected[token]["place"]
        members.setdefault(place // size, []).append((place % size, token))
    for number, tokens in members.items():
        assert len({expected[token]["window"] for _, token in tokens}) == 1
        for (i, one), (j, other) in itertools.product(tokens, tokens):
            apart = expected[one]["wrapped"] != expected[other]["wrapped"]
            assert (masks[number] is not None and bool(masks[number][i, j])) == apart


@given(st.lists(axis, min_size=1, max_size=3), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_windows_in_parts_are_the_windows(axes: list[tuple[int, int, int]], shrink: bool, pad_last: bool) -> None:
    grid, window, shift = zip(*axes, strict=True)
    x = noise(2, *grid, 3)
    windows = windows_over(x, window, shift, shrink, pad_last)
    tokens = x.flatten(1, -2)
    rows = permute(tokens, windows.order, windows.places)
    filled = windows.fill(rows)
    assert torch.equal(windows.drain(filled), rows)
    assert torch.equal(permute(rows, windows.places, windows.order), tokens)
    count = filled.shape[1]
    assert count == sum(n for n, _ in windows.masks)
    for first in range(count):
        part = windows.part(first, count)
        some = part.fill(tokens[:, part.order])
        assert torch.equal(some, filled[:, first:])
        assert torch.equal(part.drain(some), tokens[:, part.order])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_relative_positions_tell_offsets_apart(window: list[int]) -> None:
    places = list(itertools.product(*map(range, window)))
    index = relative_positions(window)
    seen: dict[int, tuple[int, ...]] = {}
    for (i, one), (j, other) in itertools.product(enumerate(places), enumerate(places)):
        offset = tuple(a - b for a, b in zip(one, other, strict=True))
        assert seen.setdefault(int(index[i, j]), offset) == offset
    ordered = [seen[key] for key in sorted(seen)]
    assert ordered == sorted(ordered)
    assert sorted(seen) == list(range(torch.tensor([2 * side - 1 for side in window]).prod().item()))


def test_attention_is_its_formula_and_so_is_its_gradient() -> None:
    qkv = noise(5, 6, 3, 2, 4).requires_grad_()
    bias = noise(2, 6, 6).requires_grad_()
    q, k, v = qkv.transpose(1, 3).unbind(2)
    expected = ((q / 2 @ k.transpose(-2, -1) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend_biased(qkv, bias, 0.0), expected)
    assert torch.autograd.gradcheck(lambda x, b: attend_biased(x, b, 0.0), (qkv, bias), fast_mode=True)


def test_compiled_attention_is_torchs_fused_one_too_and_keeps_no_scores() -> None:
    qkv, bias = noise(5, 6, 3, 2, 4).requires_grad_(), noise(2, 6, 6).requires_grad_()
    compiled = torch.compile(attend_biased, backend="aot_eager", fullgraph=True)
    expected = attend_biased(qkv, bias, 0.0)
    whole = torch.autograd.grad(expected.square().sum(), (qkv, bias))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        got = compiled(qkv, bias, 0.0)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got.square().sum(), (qkv, bias)), whole)
    assert sorted(kept) == [bias.numel(), qkv.numel()], "more than its inputs"
    with torch.profiler.profile() as profile, torch.no_grad():
        compiled(qkv, bias, 0.0)
    # explicit products would take twice as long
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in {event.key for event in profile.key_averages()}


def test_scores_in_parts_are_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, bias = noise(5, 6, 3, 2, 4).requires_grad_(), noise(2, 6, 6).requires_grad_()
    whole = attend_biased(qkv, bias, 0.0)
    expected = torch.autograd.grad(whole.square().sum(), (qkv, bias))
    monkeypatch.setattr("tubelet.backbones.image.swin._SCORES_IN_CACHE", 2 * bias.numel() * 8)
    parts = attend_biased(qkv, bias, 0.0)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), (qkv, bias)), expected)


@pytest.mark.parametrize("edges", ["pad", "timm", "shrink"])
@pytest.mark.parametrize("rows", [1, 200])
def test_a_block_is_the_same_whole_in_parts_and_fused(edges: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomised("swin_t", edges=edges, size=16)
    monkeypatch.setattr("tubelet.backbones.image.swin._ROWS_IN_CACHE", rows)
    for shape in ((3, 3, 16, 16), (1, 3, 9, 18), (2, 3, 3, 10)):
        x = noise(*shape)
        whole = model(x)
        with torch.no_grad(), monkeypatch.context() as patched:
            torch.testing.assert_close(model(x), whole)
            patched.setattr("torch.compiler.is_compiling", lambda: True)
            torch.testing.assert_close(model(x), whole)


@pytest.mark.parametrize("shape", [(2, 4, 6, 8), (1, 4, 5, 8), (1, 2, 7, 8)])
@pytest.mark.parametrize("shifted", [False, True])
def test_gradients_of_a_block(shape: tuple[int, ...], shifted: bool) -> None:
    block = randomised("swin_t", window=3, edges="shrink").layers[0].blocks[shifted]
    x = noise(*shape).requires_grad_()
    assert torch.autograd.gradcheck(block, x, fast_mode=True)
    table = block.attn.relative_position_bias_table
    assert torch.autograd.gradcheck(lambda _: block(x.detach()), table, fast_mode=True)


def test_dropout_reaches_the_scores() -> None:
    model, x = randomised("swin_t", attention_dropout=0.5).train(), noise(2, 3, 12, 12)
    torch.manual_seed(0)  # now and then chance drops all that a table has a gradient from
    first = model(x)
    assert not torch.allclose(first, model(x))
    first.sum().backward()
    assert all(block.attn.relative_position_bias_table.grad.any() for block in model.blocks())
    assert torch.allclose(model.eval()(x), model(x))


def test_what_is_kept_for_a_grid_serves_every_mode() -> None:
    model = randomised("video_swin_t")
    x = noise(1, 3, 6, 14, 18)
    with torch.inference_mode():
        expected = model(x)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), expected.clone())
    model(x).sum().backward()
    before = model(x)
    with torch.no_grad():
        model.layers[0].blocks[0].attn.relative_position_bias_table.data.add_(noise(45, 1))
        torch.testing.assert_close(model(x), model.train()(x))
        assert not torch.allclose(model.eval()(x), before)


@pytest.mark.parametrize("shape", [(1, 3, 2, 24, 24), (2, 3, 8, 24, 24), (1, 3, 8, 22, 38), (1, 3, 4, 13, 30)])
def test_a_lifted_swin_sees_a_still_video_as_its_image(shape: tuple[int, ...]) -> None:
    """Every window holds each place of the image equally often, and the mask over time leaves it so. Where the time
    axis is padded, or H or W is shorter than the window, the published network differs from the image's."""
    image = randomised("swin_t")
    video = create_model("video_swin_t", **VIDEO).double().eval()
    report = load_weights(video, image.state_dict())
    assert len(report.loaded) == report.total
    assert report.inflated["patch_embed.proj.weight"] == "repeated over 2 frames and divided by 2"
    assert report.inflated["layers.1.blocks.1.attn.relative_position_bias_table"] == "repeated for 3 offsets in time"
    assert not report.dropped
    picture = noise(shape[0], 3, *shape[3:])
    padded = F.pad(picture, (0, -shape[4] % 2, 0, -shape[3] % 2))
    with torch.no_grad():
        clip = picture.unsqueeze(2).expand(-1, -1, shape[2], -1, -1)
        torch.testing.assert_close(video(clip), image(padded), rtol=1e-12, atol=1e-12)


def test_time_is_seen() -> None:
    model, x = randomised("video_swin_t"), noise(1, 3, 8, 12, 12)
    with torch.no_grad():
        assert not torch.allclose(model(x), model(x.flip(2)))


def _rename(state: State, *rules: tuple[str, str]) -> State:
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def official(state: State) -> dict:
    masks = {
        "layers.0.blocks.1.attn_mask": torch.zeros(4, 6, 6),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(6, 6),
    }
    return {"model": {**state, **masks}, "epoch": 3}


def old_timm(state: State) -> State:
    return dict(state)


def new_timm(state: State) -> State:
    return _rename(state, (r"^layers\.0\.downsample", "layers.1.downsample"), (r"^head\.", "head.fc."))


def timm_features(state: State) -> State:
    return {key: value for key, value in new_timm(state).items() if not key.startswith("head.")}


def _sequence(state: State, first: int) -> State:
    number = lambda found: f"features.{first + 2 * int(found[1]) + (found[2] == 'downsample')}"  # noqa: E731
    return {
        re.sub(r"^layers\.(\d)\.(blocks|downsample)", number, key): value  # type: ignore[arg-type]
        for key, value in _rename(state, (r"mlp\.fc1", "mlp.0"), (r"mlp\.fc2", "mlp.3")).items()
    }


def torchvision_image(state: State) -> State:
    renamed = _rename(state, (r"^patch_embed\.proj", "features.0.0"), (r"^patch_embed\.norm", "features.0.2"))
    return _sequence(renamed, 1)


def torchvision_video(state: State) -> State:
    return _sequence(state, 0)


def official_video(state: State) -> dict:
    renamed = {f"backbone.{key}": value for key, value in state.items()}
    return {"state_dict": _rename(renamed, (r"^backbone\.head", "cls_head.fc_cls")), "meta": {}}


def renamed_head(state: State) -> dict:
    return _rename(official_video(state)["state_dict"], (r"^cls_head\.fc_cls", "fc"))


def mmaction(state: State) -> dict:
    renamed = _rename(official_video(state)["state_dict"], (r"^backbone\.norm\.", "backbone.norm3."))
    return {"state_dict": {**renamed, "data_preprocessor.mean": torch.zeros(3, 1, 1, 1)}}


@pytest.mark.parametrize("publish", [official, old_timm, new_timm, timm_features, torchvision_image])
def test_image_layouts(publish) -> None:
    theirs, ours = randomised("swin_t"), randomised("swin_t")
    report = load_weights(ours, publish(theirs.state_dict()))
    headless = publish is timm_features
    assert len(report.loaded) == report.total - 2 * headless
    assert not report.dropped
    assert not report.resized
    x = noise(1, 3, 20, 20)
    assert torch.equal(ours.embed(x), theirs.embed(x))
    assert torch.equal(ours(x), theirs(x)) != headless


@pytest.mark.parametrize("publish", [dict, official_video, renamed_head, mmaction, torchvision_video])
def test_video_layouts(publish) -> None:
    theirs, ours = randomised("video_swin_t"), randomised("video_swin_t")
    report = load_weights(ours, publish(theirs.state_dict()))
    assert len(report.loaded) == report.total
    assert not {**report.dropped, **report.resized, **report.inflated}
    x = noise(1, 3, 6, 20, 20)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("publish", [official, new_timm, torchvision_image])
def test_image_layouts_are_lifted(publish) -> None:
    image, video = (
        randomised("swin_t", window=3, num_classes=7),
        create_model("video_swin_t", **VIDEO | {"window": (2, 5, 4)}),
    )
    report = load_weights(video, publish(image.state_dict()))
    table = image.layers[0].blocks[1].attn.relative_position_bias_table.float()
    resized = F.interpolate(table.t().view(1, 1, 5, 5), size=(9, 7), mode="bicubic").view(1, 63).t()
    torch.testing.assert_close(video.layers[0].blocks[1].attn.relative_position_bias_table.data, resized.repeat(3, 1))
    assert report.resized["layers.0.blocks.1.attn.relative_position_bias_table"] == (
        "from window (3, 3) to (5, 4), bicubic as published"
    )
    assert report.initialised == ["head.weight", "head.bias"]
    assert "7 classes" in report.dropped["head.weight"]


@pytest.mark.parametrize(
    ("old", "new", "how"),
    [((2, 3, 3), (2, 4, 5), "bicubic as published"), ((2, 3, 3), (4, 3, 3), "linear in time"),
     ((2, 3, 3), (3, 4, 4), "bicubic as published and linear in time")],
)  # fmt: skip
def test_clips_weights_for_other_windows(old: tuple[int, ...], new: tuple[int, ...], how: str) -> None:
    theirs, ours = randomised("video_swin_t", window=old), randomised("video_swin_t", window=new)
    report = load_weights(ours, theirs.state_dict())
    name = "layers.1.blocks.0.attn.relative_position_bias_table"
    assert report.resized[name] == f"from window {old} to {new}, {how}"
    assert len(report.resized) == 4
    assert len(report.loaded) == report.total
    assert torch.equal(ours.state_dict()[name], resize_table(theirs.state_dict()[name], old, new))


def test_a_resized_table_of_one_number_is_that_number_and_of_the_same_window_itself() -> None:
    table = noise(75, 2)
    assert torch.equal(resize_table(table, (2, 3, 3), (2, 3, 3)), table.float().double())
    torch.testing.assert_close(
        resize_table(torch.full((75, 2), 0.5), (2, 3, 3), (5, 4, 2)), torch.full((9 * 7 * 3, 2), 0.5)
    )


@pytest.mark.parametrize(
    ("other", "cause"),
    [({"dim": 16}, "dim 16, this model has 8"), ({"depths": [2, 4]}, r"depths \(2, 4\), this model has \(2, 2\)"),
     ({"heads": [2, 4]}, r"heads \(2, 4\), this model has \(1, 2\)"), ({"mlp_ratio": 4}, "mlp_ratio 4.0, this"),
     ({"patch_norm": False}, "patch_norm False, this"), ({"patch": [1, 2, 2]}, r"patch \(1, 2, 2\), this"),
     ({"window": [1, 2, 4]}, r"window with tables of \(21, 21\) entries")],
)  # fmt: skip
def test_another_architecture_is_named(other: dict, cause: str) -> None:
    with pytest.raises(WeightsError, match=cause):
        load_weights(randomised("video_swin_t"), randomised("video_swin_t", **other).state_dict())


def test_a_clips_weights_do_not_fit_the_image() -> None:
    with pytest.raises(WeightsError, match=r"patch \(2, 2, 2\), this model has \(2, 2\)"):
        load_weights(randomised("swin_t"), randomised("video_swin_t").state_dict())


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [("video_swin_t", {"window": [8, 7]}, "window must be"), ("swin_t", {"patch": 0}, "patch must be"),
     ("swin_t", {"depths": [2, 2]}, "depths and heads"), ("swin_t", {"edges": "wrap"}, "edges must be"),
     ("swin_t", {"heads": [5, 6, 12, 24]}, "does not divide into 5 heads"),
     ("swin_t", {"depths": [], "heads": []}, "depths")],
)  # fmt: skip
def test_bad_arguments_are_named(name: str, arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        create_model(name, **arguments)


def test_initialisation_is_the_published_one() -> None:
    model = create_model("video_swin_t", depths=[2, 2], heads=[3, 6])
    tables = [block.attn.relative_position_bias_table for block in model.blocks()]
    assert all(abs(table.std().item() - 0.02) < 2e-3 for table in tables)
    assert not torch.equal(tables[0][:169], tables[0][169:338])
    assert model.no_weight_decay() == {name for name, p in model.named_parameters() if name.endswith("bias_table")}
    assert [round(block.drop_path.rate, 3) for block in model.blocks()] == [0.0, 0.033, 0.067, 0.1]
