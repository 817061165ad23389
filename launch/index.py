"""Writes the index beside each shard, for tars that other tools made (key.mp4 with key.cls, key.txt or key.json), or
that an older tubelet prepared. A folder that has no card.json gets one, and is a dataset from then on.

    tubelet index FOLDER
    tubelet index 'tars/{000000..000099}.tar'

Indices that are there and whole are kept, so that a run that was ended goes on where it was. Shards at a URL are
fetched into the cache and indexed there.
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.datasets import IndexConfig, index_data

    for line in index_data(parse(IndexConfig, "index", __doc__, argv)):
        print(line, flush=True)


if __name__ == "__main__":
    start(main)
