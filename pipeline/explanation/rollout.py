"""Attention rollout (Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3).

Where the evidence of a class does not count, only which tokens the attention of all layers takes what it pools from:
the product over the layers of (A + I) / 2, A the mean of the heads' attention, I the residual. With y = A x the
attention of one number a token, that product is a gradient: that of a network in which values are the tokens
themselves, heads are averaged, norms and projections pass on what comes in, and MLPs add nothing. So one backward pass
has it, and no matrix of all tokens by all tokens is ever made, however attention is divided: over time and then space,
over heads, in windows, or shifted in time. Patches that Swin merges have equal parts in what becomes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from tubelet.backbones import Model

_POOLED = ("temporal_head.fc", "head_drop")
"""What takes the pooled tokens, in X-ViT and elsewhere: behind it nothing attends."""
_AVERAGING = ("temporal_fc", "reduction")
"""Linear layers beside attention: after that over time in TimeSformer, and where Swin merges patches."""


def makes_queries(name: str) -> bool:
    """Whether a layer, by its name, is the projection to queries, keys and values."""
    return name.rpartition(".")[2] == "qkv"


def mixes_by_attention_alone(model: Model) -> bool:
    """Whether places and times meet nowhere but in attention, and in the embedding of the patches."""
    convolutions = [name for name, part in model.named_modules() if isinstance(part, nn.modules.conv._ConvNd)]
    attends = any(makes_queries(name) for name, _ in model.named_modules())
    return attends and all(name.startswith("patch_embed.") for name in convolutions)


@contextmanager
def attention_only(model: Model) -> Iterator[list[Tensor]]:
    """What is computed stays, but gradients see attention and residuals alone. Yields a list that gets the pooled
    tokens of each call, (..., C): the gradient of their mean over C is the rollout, and that of all patches and class
    tokens together is 1."""
    pooled: list[Tensor] = []
    modules = dict(model.named_modules())
    taking = next(modules[name] for name in _POOLED if name in modules)
    with ExitStack() as stack:

        def hook(part: nn.Module, how: Callable[[Any, Any, Any], Any]) -> None:
            stack.callback(part.register_forward_hook(how).remove)

        stack.callback(taking.register_forward_pre_hook(lambda part, inputs: pooled.append(inputs[0])).remove)
        for name, part in modules.items():
            place, _, kind = name.rpartition(".")
            if makes_queries(name):
                hook(part, _values_are_tokens)
                hook(modules[f"{place}.proj"], _mean_of_channels)
                hook(modules[place], _half)
            elif kind in _AVERAGING:
                hook(part, _mean_of_channels)
            elif kind == "mlp":
                hook(part, lambda part, inputs, output: output.detach())
            elif isinstance(part, nn.LayerNorm):
                hook(part, lambda part, inputs, output: _with_gradient_of(inputs[0], output))
        yield pooled


def _with_gradient_of(like: Tensor, output: Tensor) -> Tensor:
    return output.detach() + (like - like.detach())


def _values_are_tokens(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> Any:
    """Queries, keys and values come in this order, in one tensor (..., 3 * C) or as as many tensors of each."""
    (x,) = inputs
    if isinstance(output, Tensor):
        still = output.detach().clone()
        still[..., 2 * x.shape[-1] :] += x - x.detach()
        return still
    parts, values = [part.detach() for part in output], len(output) // 3
    return (*parts[: 2 * values], *map(_with_gradient_of, x.chunk(values, dim=-1), parts[2 * values :]))


def _mean_of_channels(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return _with_gradient_of(inputs[0].mean(-1, keepdim=True).expand_as(output), output)


def _half(attention: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """With the residual that is added, (A x - x) / 2 makes (A x + x) / 2."""
    return _with_gradient_of((output - inputs[0].reshape(output.shape)) / 2, output)
