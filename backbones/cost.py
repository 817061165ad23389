"""What a model costs: parameters, and multiply-accumulates of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call


def count_cost(model: nn.Module, clip_shape: Sequence[int]) -> tuple[int, int]:
    """(parameters, multiply-accumulates) of `model` on an input of `clip_shape`, the batch axis included.

    Counted on the meta device, so neither the model's weights are touched nor anything is computed. Papers that print
    "GFLOPs" of video networks mean multiply-accumulates (one per multiplication with its addition): half the
    operations.
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings triton, which few commands need

    state = {name: value.detach().to("meta") for name, value in model.state_dict(keep_vars=True).items()}
    clip = torch.empty(*clip_shape, dtype=next(model.parameters()).dtype, device="meta")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(model, state, (clip,))
    finally:
        model.train(was_training)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2
