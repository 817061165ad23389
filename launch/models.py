"""Lists the models: parameters in millions, multiply-accumulates of one view in billions (the papers' GFLOPs), clip.

With --weights, lists the published weights: what they are of, trained on, reported to score, and their licence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tubelet.launch.main import parse, start


@dataclass(frozen=True)
class ModelsConfig:
    match: str | None = None
    """Only models whose name matches this pattern, such as 'timesformer*'."""
    weights: bool = False
    """List published weights instead: their ids, which train --weights, convert and load_weights take."""


def main(argv: Sequence[str]) -> None:
    config = parse(ModelsConfig, "models", __doc__, argv)
    from tubelet.pipeline.models import model_table, weights_table

    for line in (weights_table if config.weights else model_table)(config.match):
        print(line, flush=True)


if __name__ == "__main__":
    start(main)
