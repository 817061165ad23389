"""Writes published weights, of any format and naming, as a folder of ours: model.safetensors and config.json.

    tubelet convert TimeSformer_divST_8x32_224_K400.pyth OUT
    tubelet convert vivit_b_fe_k400 OUT

IN is a file, a folder of Hugging Face, or the id of published weights, which are downloaded (`tubelet models --weights`
lists them). The model is that of the id, or told by the weights themselves where they fit one only.
"""

from collections.abc import Sequence

from tubelet.launch.main import parse, start


def main(argv: Sequence[str]) -> None:
    from tubelet.pipeline.convert import ConvertConfig, convert

    for line in convert(parse(ConvertConfig, "convert", __doc__, argv)):
        print(line)


if __name__ == "__main__":
    start(main)
