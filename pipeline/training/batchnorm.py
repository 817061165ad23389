"""BatchNorm over several processes, and its statistics taken anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tubelet.backbones import Model

from ..cluster.distributed import World
from ..errors import ConfigError


def convert_norms(model: Model, batch_norm: str, world: World) -> Model:
    """`model` with BatchNorm over the batches of all processes, where `batch_norm` is sync. Raises ConfigError on CPUs,
    where torch has none."""
    if batch_norm != "sync" or world.size == 1:
        return model
    if world.device.type == "cpu":
        raise ConfigError("--batch-norm sync needs GPUs. On CPUs use local, with --precise-bn, or frozen")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


@torch.no_grad()
def retake_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces the running statistics of BatchNorm, which trail behind the weights, by their mean over `batches` of
    clips under the weights of now (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", sec. 3)."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
    for clips in batches:
        model(clips)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
