"""Says how well stored embeddings tell the classes apart, by a linear probe and by nearest neighbours:

tubelet probe EMBEDDINGS
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.pipeline.embedding.probe import ProbeConfig, probe, text

    config = parse(ProbeConfig, "probe", __doc__, argv)
    print(text(probe(config), config.json))


if __name__ == "__main__":
    start(main)
