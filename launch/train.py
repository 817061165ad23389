"""Trains or fine-tunes a model on a dataset that `tubelet prepare` made, in one process or under a launcher:

    deepspeed launch/train.py --model timesformer --data DIR --out RUN
    torchrun --nproc-per-node 8 launch/train.py --recipe my.yaml --data DIR --out RUN
    tubelet train --model timesformer_tiny --data DIR --out RUN

Values come from the defaults, then from --recipe, then from the arguments; `none` takes one away (--weights none). RUN
is what --checkpoint of the other commands takes.
"""

import argparse
from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.pipeline.config import TrainConfig, read_recipe

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe")
    recipe = first.parse_known_args(argv)[0].recipe
    config = parse(TrainConfig, "train", __doc__, argv, read_recipe(recipe) if recipe not in (None, "none") else None)

    from tubelet.pipeline.training.train import train

    train(config)


if __name__ == "__main__":
    start(main)
