"""Stores embeddings of videos as Parquet: key, split, label, start and end in seconds, vector.

    tubelet embed --checkpoint RUN --data SHARDS_OR_FOLDER_OR_LIST --out EMBEDDINGS
    tubelet embed --checkpoint RUN --data two_hours.mp4 --every-seconds 1 --out EMBEDDINGS

Under a launcher (torchrun, deepspeed, srun) the processes share the work. The same command, with any number of them,
goes on where one that was killed left off.
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.pipeline.embedding.embed import EmbedConfig, embed

    embed(parse(EmbedConfig, "embed", __doc__, argv))


if __name__ == "__main__":
    start(main)
