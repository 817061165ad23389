"""Attention rollout is that of Abnar & Zuidema, and is refused where it is not defined."""

from __future__ import annotations

import pytest
import torch

from tubelet.backbones import Model, create_model
from tubelet.pipeline.errors import ConfigError
from tubelet.pipeline.explanation.maps import ROLLOUT, Explainer
from tubelet.pipeline.explanation.rollout import attention_only

NETWORKS = [("timesformer_tiny", {"attention": kind}) for kind in ("divided", "joint", "space")]
NETWORKS += [("vivit_tiny", {"variant": kind}) for kind in ("joint", "factorised_encoder", "factorised_attention")]
NETWORKS += [("vivit_tiny", {"variant": "factorised_heads"}), ("video_swin_tiny", {})]
SHIFTED = [("xvit_tiny", {"head": kind}) for kind in ("temporal", "average")]


def network(name: str, **numbers: object) -> Model:
    torch.manual_seed(0)
    return create_model(name, num_classes=3, **numbers).eval()


def attention_of_layers(model: Model, clips: torch.Tensor) -> list[torch.Tensor]:
    """The mean over heads of what each layer attends to, (B, tokens, tokens), from its queries and keys."""
    found = []

    def note(layer: object, inputs: object, output: torch.Tensor) -> None:
        heads = model.blocks[0].attn.heads
        q, k, _ = output.unflatten(-1, (3, heads, -1)).transpose(1, 3).unbind(2)  # (B, h, tokens, d)
        found.append((q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1).mean(1))

    hooks = [block.attn.qkv.register_forward_hook(note) for block in model.blocks]
    with torch.no_grad():
        model(clips)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(("name", "numbers"), [NETWORKS[1], NETWORKS[3]], ids=str)
def test_it_is_the_product_of_the_layers(name: str, numbers: dict[str, object]) -> None:
    model, clips = network(name, **numbers).double(), torch.randn(2, 3, 8, 48, 48).double()
    rolled = torch.eye(1 + 4 * 4 * (8 if name == "timesformer_tiny" else 4)).double()
    for attention in attention_of_layers(model, clips):
        rolled = (attention + torch.eye(len(attention[0]))) / 2 @ rolled
    of_patches = rolled[:, 0, 1:]  # from the class token
    times = of_patches.unflatten(1, (16, 8)).mT if name == "timesformer_tiny" else of_patches.unflatten(1, (4, 16))
    found = Explainer(model, "rollout")._rollout(clips.requires_grad_(), torch.zeros(2))
    torch.testing.assert_close(found.double().flatten(2), times, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "numbers"), NETWORKS, ids=str)
def test_all_that_is_looked_at_is_one(name: str, numbers: dict[str, object]) -> None:
    """Each layer shares out what its tokens get: patches and class tokens together keep it."""
    model, clips = network(name, **numbers), torch.randn(2, 3, 8, 48, 48)
    tokens = [part for key, part in model.named_parameters() if key.endswith("cls_token")]
    kept: list[torch.Tensor] = []
    hook = model.patch_embed.register_forward_hook(lambda *call: kept.append(call[-1]))
    with attention_only(model) as pooled:
        model(clips)
        shares = torch.autograd.grad(pooled[0].mean(-1).sum(), [kept[0], *tokens], allow_unused=True)
    hook.remove()
    assert sum(float(share.sum()) for share in shares if share is not None) == pytest.approx(len(clips), abs=1e-4)
    assert all(share is None or share.sum(-1).min() > -1e-7 for share in shares)


@pytest.mark.parametrize(("name", "numbers"), NETWORKS + SHIFTED, ids=str)
def test_it_is_of_the_clip_and_of_no_class(name: str, numbers: dict[str, object]) -> None:
    model, clips = network(name, **numbers).requires_grad_(False), torch.randn(2, 3, 8, 48, 48)
    explainer = Explainer(model, "rollout")
    assert explainer.method == ROLLOUT
    before = model(clips)
    maps = explainer(clips, torch.tensor([0, 1]))
    assert maps.shape == (2, 8, 48, 48)
    assert maps.min() >= 0
    assert (maps.amax((1, 2, 3)) > 0).all()
    assert not torch.allclose(maps[0], maps[1], rtol=0.02, atol=0)
    torch.testing.assert_close(explainer(clips, torch.tensor([2, 0])), maps)
    assert torch.equal(model(clips), before)  # nothing of it stays in the network


@pytest.mark.parametrize("name", ["uniformer_tiny", "r3d_tiny"])
def test_where_convolutions_mix_it_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--method rollout: {name} mixes places by convolutions.* Leave --method"):
        Explainer(network(name), "rollout")
