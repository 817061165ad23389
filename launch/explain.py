"""Shows where and when a network saw what it scored in a video, or the filters of its first layer.

tubelet explain --checkpoint RUN --video clip.mp4 --out seen
tubelet explain --checkpoint RUN --filters --out seen
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.pipeline.explanation.explain import ExplainConfig, explain

    for file in explain(parse(ExplainConfig, "explain", __doc__, argv)):
        print(file)


if __name__ == "__main__":
    start(main)
