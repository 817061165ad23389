"""Makes the demo set: a folder of classes of real encoded videos, shapes that move on textured backgrounds, in pairs of
classes that are time-reversals of each other. A model that does not use time guesses right every second time at most.

    tubelet demo --out DIR
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.datasets import DemoConfig, make_demo

    config = parse(DemoConfig, "demo", __doc__, argv)
    print(f"{make_demo(config)}: {config.videos} videos of {2 * config.pairs} classes")


if __name__ == "__main__":
    start(main)
