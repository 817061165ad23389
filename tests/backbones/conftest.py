"""What the tests of backbones share."""

from collections.abc import Callable

import pytest
from torch import nn

from tubelet.backbones import create_model

SMALL = {"patch": 8, "dim": 24, "depth": 2, "heads": 3, "mlp_ratio": 2, "num_classes": 5, "size": 24}


def _small(name: str, **arguments: object) -> nn.Module:
    frames = {"frames": 3} if name.startswith("timesformer") else {}
    return create_model(name, **(SMALL | frames | arguments)).eval()


def _randomised(name: str, **arguments: object) -> nn.Module:
    model = _small(name, **arguments)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def small() -> Callable[..., nn.Module]:
    """Builds a model of two narrow blocks, as create_model would."""
    return _small


@pytest.fixture
def randomised() -> Callable[..., nn.Module]:
    """Builds the same model with no weight zero or one."""
    return _randomised
