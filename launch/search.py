"""Finds the clips of an index that are nearest to a video, or to one of its own:

tubelet search EMBEDDINGS --video query.mp4
tubelet search EMBEDDINGS --key dancing/video_17 --json
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.pipeline.embedding.search import SearchConfig, lines, search

    config = parse(SearchConfig, "search", __doc__, argv)
    for line in lines(search(config), config.json):
        print(line)


if __name__ == "__main__":
    start(main)
