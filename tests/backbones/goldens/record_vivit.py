"""Record the goldens of ViViT beside this file, as record.py does; needs transformers 5.

    python tests/backbones/goldens/record_vivit.py

transformers has the paper's model 1 alone. It names weights in one way in memory and in another in the files it saves,
which are those of its older versions: each way is recorded once. The second network has frames that are not square,
and neither they nor the clip are of whole tubelets.
"""

import tempfile

import transformers
from record import HERE, HUGGING_FACE, SMALL, record
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def hugging_face(name: str, frames: int, height: int, width: int, saved: bool = False) -> None:
    config = {**HUGGING_FACE, "image_size": (height, width), "num_frames": frames, "tubelet_size": [2, 8, 8]}
    network = transformers.VivitForVideoClassification(transformers.VivitConfig(**config))
    create = {key: value for key, value in SMALL.items() if key != "patch"}
    create |= {"name": "vivit_b", "variant": "joint", "tubelet": [2, 8, 8]}
    create |= {"frames": frames, "size": height, "width": width}
    source = f"transformers {transformers.__version__} VivitForVideoClassification"
    record(name, source, create, network, (2, 3, frames, height, width), video=True)
    if saved:
        path = HERE / f"{name}.safetensors"
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = {key: value for key, value in load_file(path).items() if not key.startswith("state.")}
        with tempfile.TemporaryDirectory() as folder:
            network.float().save_pretrained(folder)
            state = load_file(f"{folder}/model.safetensors")
        save_file(tensors | {f"state.{key}": value for key, value in state.items()}, path, metadata=metadata)


if __name__ == "__main__":
    hugging_face("vivit-huggingface", frames=4, height=24, width=24)
    hugging_face("vivit-huggingface-saved", frames=5, height=29, width=35, saved=True)
