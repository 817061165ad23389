"""Shows clips of a dataset as the model sees them, per class: as a picture of strips, or as a page whose clips move.

    tubelet browse SHARDS --model timesformer --out clips.html
    tubelet browse SHARDS --recipe my.yaml --augment --classes jump run --out clips.png

The page is one file that needs no network. A video that cannot be read is shown as a gap with its cause.
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.pipeline.pictures.browse import BrowseConfig, browse

    print(browse(parse(BrowseConfig, "browse", __doc__, argv)))


if __name__ == "__main__":
    start(main)
