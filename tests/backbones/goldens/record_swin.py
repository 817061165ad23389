"""Record the goldens of Swin and Video Swin beside this file: narrow networks of torchvision, timm and transformers.

    python tests/backbones/goldens/record_swin.py        # needs timm, transformers and torchvision; the tests need none

Two windows along an axis, one and a part, and less than one: grids that windows divide, that are padded and that are
shorter than a window, each publisher in its own way.
"""

import tempfile

import timm
import torchvision
import transformers
from record import HERE, record
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.models.video.swin_transformer import SwinTransformer3d

BY_TORCHVISION = f"torchvision {torchvision.__version__}"
NARROW = {"dim": 8, "depths": [2, 2], "heads": [2, 4], "mlp_ratio": 2, "num_classes": 5}


def image_swins() -> None:
    network = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 4], [3, 3], mlp_ratio=2, num_classes=5)
    create = {**NARROW, "name": "swin_t", "window": 3}
    record("swin-torchvision", f"{BY_TORCHVISION} SwinTransformer", create, network, (2, 3, 24, 24))
    record("swin-torchvision-padded", f"{BY_TORCHVISION} SwinTransformer", create, network, (1, 3, 22, 37))

    swin = timm.models.swin_transformer.SwinTransformer
    network = swin(32, 4, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=5, mlp_ratio=2, num_classes=5)
    create = {**NARROW, "name": "swin_t", "window": 5, "edges": "timm", "size": 32}
    record("swin-timm-padded", f"timm {timm.__version__} SwinTransformer", create, network, (2, 3, 32, 32))

    config = transformers.SwinConfig(
        image_size=24,
        patch_size=4,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=3,
        mlp_ratio=2,
        num_labels=5,
    )
    source = f"transformers {transformers.__version__} SwinForImageClassification"
    network = transformers.SwinForImageClassification(config)
    record("swin-huggingface", source, {**NARROW, "name": "swin_t", "window": 3}, network, (2, 3, 24, 24))
    rename_as_saved("swin-huggingface", network)


def rename_as_saved(name: str, network: transformers.PreTrainedModel) -> None:
    """The same golden under the names that transformers gives weights in files."""
    path = HERE / f"{name}.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = {key: value for key, value in load_file(path).items() if not key.startswith("state.")}
    with tempfile.TemporaryDirectory() as folder:
        network.float().save_pretrained(folder)
        saved = load_file(f"{folder}/model.safetensors")
    tensors |= {f"state.{key}": value for key, value in saved.items()}
    save_file(tensors, HERE / f"{name}-saved.safetensors", metadata=metadata)


def video_swins() -> None:
    network = SwinTransformer3d([2, 4, 4], 8, [2, 2], [2, 4], [3, 2, 2], mlp_ratio=2, num_classes=5)
    create = {**NARROW, "name": "video_swin_t", "window": [3, 2, 2]}
    for suffix, shape in {"": (2, 3, 12, 16, 16), "-padded": (1, 3, 9, 22, 29), "-short": (1, 3, 4, 8, 16)}.items():
        record(f"video-swin-torchvision{suffix}", f"{BY_TORCHVISION} SwinTransformer3d", create, network, shape)


if __name__ == "__main__":
    image_swins()
    video_swins()
