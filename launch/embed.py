"""Stores clip embeddings of a dataset as Parquet: key, split, label, start and end in seconds, vector.

    tubelet embed --checkpoint RUN --data DIR --out EMBEDDINGS

Under a launcher (torchrun, deepspeed, srun) each process embeds its part of the videos and writes a file of its own.
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.pipeline.embedding.embed import EmbedConfig, embed

    embed(parse(EmbedConfig, "embed", __doc__, argv))


if __name__ == "__main__":
    start(main)
