"""Evaluates a trained model: scores of several views a video, top-1 and top-5 per clip and per video.

    tubelet evaluate --checkpoint RUN --data DIR --views 4x3

Under a launcher (torchrun, deepspeed, srun) the videos are divided among the processes, each counted once.
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.pipeline.evaluation.evaluate import EvaluateConfig, evaluate

    evaluate(parse(EvaluateConfig, "evaluate", __doc__, argv))


if __name__ == "__main__":
    start(main)
