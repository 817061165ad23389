"""BatchNorm over several processes, and its statistics taken anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
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
    """Replaces the running statistics of BatchNorm, which trail behind the weights, by those of all `batches` of clips
    together under the weights of now (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", sec. 3)."""
    norms = _learning_norms(model)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0  # the last batch's alone
    taken = []
    for clips in batches:
        model(clips)
        taken.append(_moments(norms))
    _put_moments(norms, torch.stack(taken).mean(0))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def share_statistics(model: nn.Module, world: World) -> None:
    """Gives every rank the running statistics of all ranks' clips together, of which each has seen its own: so all
    evaluate, and a checkpoint holds, the same model. Counters of steps are equal already."""
    norms = _learning_norms(model)
    if world.size == 1 or not norms:
        return
    moments = _moments(norms)
    dist.all_reduce(moments)
    _put_moments(norms, moments / world.size)


def _learning_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]


def _moments(norms: list[_BatchNorm]) -> Tensor:
    """Mean and mean square of every channel, which several sets of clips have the mean of, as variances have not.
    fp64, since the one is taken from the other again."""
    means = torch.cat([norm.running_mean for norm in norms]).double()  # type: ignore[misc]  # they keep statistics
    variances = torch.cat([norm.running_var for norm in norms]).double()  # type: ignore[misc]
    return torch.stack([means, variances + means**2])


def _put_moments(norms: list[_BatchNorm], moments: Tensor) -> None:
    means, squares = moments
    sizes = [norm.num_features for norm in norms]
    variances = (squares - means**2).clamp_min(0)
    for norm, mean, variance in zip(norms, means.split(sizes), variances.split(sizes), strict=True):
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
