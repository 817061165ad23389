"""What a run is made of."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tubelet.pipeline.config import DataConfig, TrainConfig
from tubelet.pipeline.errors import ConfigError
from tubelet.pipeline.training.setup import balance_of


def split(multilabel: bool = False) -> Any:
    labels = np.array([0] * 6 + [1] * 2 + [2] * 4)
    return SimpleNamespace(classes=["hop", "run", "swim"], labels=labels, card=SimpleNamespace(multilabel=multilabel))


def config(**data: Any) -> TrainConfig:
    return replace(TrainConfig(), data=DataConfig(data=Path("d"), **data))


def test_classes_come_as_often_as_asked() -> None:
    assert balance_of(config(), split()) is None
    assert balance_of(config(balance=1.0), split()).quotas.tolist() == [4, 4, 4]
    assert balance_of(config(class_weights={"run": 3, "swim": 0}), split()).quotas.tolist() == [6, 6, 0]
    assert balance_of(config(balance=1.0, class_weights={"hop": 2}), split()).quotas.tolist() == [6, 3, 3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"class_weights": {"swims": 2}}, "the data has no class 'swims', but 'swim'"),
        ({"class_weights": {"hop": 0, "run": 0, "swim": 0}}, "--class-weights: no class is left to be seen"),
    ],
)
def test_what_cannot_be_is_named(data: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        balance_of(config(**data), split())


def test_several_labels_have_no_balance() -> None:
    with pytest.raises(ConfigError, match="several labels"):
        balance_of(config(balance=0.5), split(multilabel=True))
