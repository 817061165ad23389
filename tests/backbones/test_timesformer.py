"""What is TimeSformer's own: what it sees of time, and how it starts."""

import torch
from torch import nn

from tubelet.backbones import create_model


def test_space_only_does_not_see_the_order_of_frames() -> None:
    x = torch.randn(2, 3, 8, 48, 48)
    for attention, blind in (("space", True), ("divided", False), ("joint", False)):
        model = create_model("timesformer_tiny", attention=attention).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        with torch.no_grad():
            assert torch.allclose(model(x), model(x.flip(2)), atol=1e-4) == blind


def test_initialisation_is_the_published_one() -> None:
    model = create_model("timesformer", depth=3)
    assert all(not block.temporal_fc.weight.any() and not block.temporal_fc.bias.any() for block in model.blocks)
    assert not model.time_embed.any()
    block = model.blocks[0]
    assert not torch.equal(block.attn.qkv.weight, block.temporal_attn.qkv.weight)
    for weight in (model.pos_embed, block.attn.qkv.weight, block.temporal_attn.qkv.weight, model.head.weight):
        assert abs(weight.std().item() - 0.02) < 1e-3
    assert [round(block.drop_path.rate, 3) for block in model.blocks] == [0.0, 0.05, 0.1]
    tiny = create_model("timesformer_tiny")
    assert abs(tiny.pos_embed.std().item() - 0.5) < 0.05
    assert abs(tiny.time_embed.std().item() - 1.0) < 0.1
    assert abs(tiny.blocks[0].temporal_attn.qkv.weight.std().item() - 0.12) < 0.01


def test_drop_path_drops_a_clip_whole() -> None:
    model = create_model("timesformer_tiny", drop_path=0.9, depth=2).train()
    block = model.blocks[1]
    cls, x = torch.randn(64, 1, 96), torch.randn(64, 4, 2, 96)
    a, b = block.drop_path.together(cls, x)
    assert torch.equal(a.flatten(1).any(1), b.flatten(1).any(1))
    assert 0 < a.flatten(1).any(1).sum() < 32
