"""Makes a dataset of WebDataset shards from videos. A folder of classes needs no more than

    tubelet prepare --videos FOLDER --out DIR

and a dataset with label files its folder of videos and these files:

    tubelet prepare --videos kinetics400 --labels annotations/*.csv --out DIR

Each video is opened under a deadline; what is missing, no video, or damaged goes to DIR/report.json with its cause. The
videos' bytes are kept as they are, or with --encode fast made quick to read clips from. A command that was killed goes
on when it is started again. Under a launcher (srun, mpirun, torchrun, deepspeed) the processes share the work.
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.datasets import PrepareConfig, prepare
    from tubelet.pipeline.cluster.distributed import rank_and_size

    config = parse(PrepareConfig, "prepare", __doc__, argv)
    rank, size = rank_and_size()
    card = prepare(config, rank, size)
    if rank:
        return
    print(f"{config.out}: {len(card.classes)} classes")
    for name, split in card.splits.items():
        print(f"  {name}: {split.videos} of {split.listed} videos in {len(split.shards)} shards")


if __name__ == "__main__":
    start(main)
