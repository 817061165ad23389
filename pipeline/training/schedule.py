"""The learning rate as a pure function of how far the run is."""

from __future__ import annotations

import math


def learning_rate(epoch: float, *, epochs: float, peak: float, warmup_epochs: float, minimum: float) -> float:
    """Linear from zero to `peak` over `warmup_epochs`, then half a cosine down to `minimum` at `epochs`.

    epoch: passes over the data so far, a real number: in epochs and not in steps, so that a run that goes on with
    another batch size keeps its schedule. (Loshchilov and Hutter 2017, SGDR, without restarts; warm-up as in Goyal et
    al. 2017, sec. 2.2.)
    """
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    progress = min((epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9), 1.0)
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * progress))
