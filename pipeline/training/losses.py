"""What is minimised, for one label a video, mixed ones, or several."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import OptimConfig

Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(optim: OptimConfig) -> Loss:
    """The mean loss of logits (B, classes) against targets (B,) int64 or (B, classes), shares or bool.

    bce: a yes or no for each class, mean over the classes (Wightman et al. 2021, "ResNet strikes back", sec. 3.1); the
    only loss that several labels a video make sense for.
    """
    smoothing = optim.label_smoothing
    if optim.loss == "cross_entropy":
        return lambda logits, targets: F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def bce(logits: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[-1])
        smooth = targets.to(logits.dtype) * (1 - smoothing) + smoothing / logits.shape[-1]
        return F.binary_cross_entropy_with_logits(logits, smooth)

    return bce


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """How many of the clips have a right label first: of mixed clips the one it has most of, of several labels any."""
    first = logits.argmax(-1)
    if targets.ndim == 1:
        return (first == targets).sum()
    return (targets.gather(1, first[:, None])[:, 0] >= targets.amax(1)).sum()


def shown_label(targets: Tensor) -> Tensor:
    """(B,) the label to write below a clip."""
    return targets if targets.ndim == 1 else targets.to(torch.float32).argmax(-1)
