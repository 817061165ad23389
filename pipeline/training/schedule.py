"""The learning rate as a pure function of how far the run is."""

from __future__ import annotations

import math

from ..config import OptimConfig


def peak_rate(optim: OptimConfig, clips: int) -> float:
    """The peak for steps of `clips` clips: in proportion to them where `lr_batch` says what `lr` is meant for (Goyal et
    al. 2017, "Accurate, large minibatch SGD", sec. 2.1)."""
    return optim.lr if optim.lr_batch is None else optim.lr * clips / optim.lr_batch


def learning_rate(epoch: float, optim: OptimConfig, peak: float) -> float:
    """Linear from `warmup_start` of the peak up to it over `warmup_epochs` (Goyal et al. 2017, sec. 2.2), then by
    `schedule`: half a cosine down to `min_lr` at the last epoch (Loshchilov and Hutter 2017, SGDR, without restarts),
    times `step_factor` at each of `step_epochs`, or constant.

    epoch: passes over the data so far, a real number: in epochs and not in steps, so that a run that goes on with
    another batch size keeps its schedule.
    """
    if epoch < optim.warmup_epochs:
        return peak * (optim.warmup_start + (1 - optim.warmup_start) * epoch / optim.warmup_epochs)
    if optim.schedule == "constant":
        return peak
    if optim.schedule == "step":
        return peak * optim.step_factor ** sum(epoch >= at for at in optim.step_epochs)
    progress = min((epoch - optim.warmup_epochs) / max(optim.epochs - optim.warmup_epochs, 1e-9), 1.0)
    return optim.min_lr + (peak - optim.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
