"""An image network's weights given time, as far as that is the same for every family, and said in the report."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .layouts import LoadReport, State
from .lift.inflate import How, inflate_weight


def inflate_kernels(state: State, own: Mapping[str, Tensor], how: How, report: LoadReport) -> None:
    """Give time to the image kernels among `state`, as many frames as the tensors of that name in `own` have."""
    for key, value in state.items():
        target = own.get(key)
        if value.ndim == 4 and target is not None and target.ndim == 5:
            t = target.shape[2]
            state[key] = inflate_weight(value, t, how)
            report.inflated[key] = f"{how} over {t} frames" if t > 1 else "one frame, as it stands"


def start_time_from_space(state: State, parts: tuple[str, ...], report: LoadReport) -> None:
    """Attention over time starts as the attention over space: each tensor with one of `parts` in its name is copied to
    the `temporal_` one beside it."""
    for key in [key for key in state if any(part in key for part in parts)]:
        twin = key.replace(".attn.", ".temporal_attn.").replace(".norm1.", ".temporal_norm1.")
        state[twin] = state[key].clone()
        report.copied[twin] = f"from {key}"
