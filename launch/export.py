"""Exports a trained model: a folder of weights or traced graphs, each checked against the network, with a model card.

    tubelet export --checkpoint RUN --out FOLDER
    tubelet export --checkpoint RUN --out FOLDER --format safetensors pt2 onnx --push OWNER/NAME

Graphs take uint8 frames (batch, T, H, W, 3), normalise them, and put out logits. The folder, or hf-hub:OWNER/NAME once
it is on the Hub, is what `create_model`, `Embedder` and --checkpoint of the other commands take.
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.pipeline.exporting.export import ExportConfig, export

    for line in export(parse(ExportConfig, "export", __doc__, argv)):
        print(line, flush=True)


if __name__ == "__main__":
    start(main)
