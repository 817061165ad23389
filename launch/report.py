"""One page of a run, to look at and to pass on: curves, speed, confusion matrix, best and worst videos, configuration.

    tubelet report RUN

The page needs no network and no other file. Its videos and its matrix are of the newest `tubelet evaluate` of the run.
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.pipeline.pictures.report import ReportConfig, report

    print(report(parse(ReportConfig, "report", __doc__, argv)))


if __name__ == "__main__":
    start(main)
