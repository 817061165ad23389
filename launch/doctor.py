"""Says what is here: versions, accelerators, decoders; and what is missing and how to get it."""

from collections.abc import Sequence
from dataclasses import dataclass

from tubelet.launch.main import parse, start


@dataclass(frozen=True)
class DoctorConfig:
    pass


def main(argv: Sequence[str]) -> None:
    parse(DoctorConfig, "doctor", __doc__, argv)
    from tubelet.pipeline.cluster.environment import report

    for line in report():
        print(line)


if __name__ == "__main__":
    start(main)
