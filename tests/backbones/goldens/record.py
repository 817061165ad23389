"""Record the goldens beside this file: tiny random networks of public packages, and what they compute in float64.

    python tests/backbones/goldens/record.py        # needs timm, transformers and torchvision; the tests need none

Every weight is random, those that start at zero or one included, so that no path can hide. A file's metadata holds
`source` (the package and version that computed it) and `create` (the same network as arguments of create_model). Its
tensors are `state.<key>` in the publisher's own names and layout and `input` (float32), and `logits` (float64).
"""

import json
from pathlib import Path

import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
SMALL = {"size": 24, "patch": 8, "dim": 24, "depth": 2, "heads": 3, "mlp_ratio": 2, "num_classes": 5}
TIMM = {"img_size": 24, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2, "num_classes": 5}
HUGGING_FACE = {"image_size": 24, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
                "intermediate_size": 48, "num_labels": 5}  # fmt: skip


def record(
    name: str, source: str, create: dict, network: nn.Module, shape: tuple[int, ...], video: bool = False
) -> None:
    """Randomise `network`, run it in float64, and write weights, input and logits."""
    generator = torch.Generator().manual_seed(0)
    network.eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        for key, buffer in network.named_buffers():  # those of BatchNorm; tables of indices stay as they are
            if key.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
            elif key.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        x = torch.randn(shape, generator=generator)
        tensors = {f"state.{key}": value.clone() for key, value in network.state_dict().items()} | {"input": x}
        logits = network.double()(x.double().transpose(1, 2) if video else x.double())
    tensors["logits"] = getattr(logits, "logits", logits).contiguous()
    save_file(tensors, HERE / f"{name}.safetensors", metadata={"source": source, "create": json.dumps(create)})


def image_vits() -> None:
    """ViT of timm (class token, mean pooling, DeiT III, another input size), torchvision and transformers."""
    vit, small = timm.models.vision_transformer.VisionTransformer, {"name": "vit_b_16", **SMALL}
    by_timm, image = f"timm {timm.__version__} VisionTransformer", (2, 3, 24, 24)
    record("vit-timm-token", by_timm, small, vit(**TIMM), image)
    record("vit-timm-mean", by_timm, {**small, "pool": "mean", "fc_norm": True}, vit(**TIMM, global_pool="avg"), image)
    deit = vit(**TIMM, no_embed_class=True, init_values=1e-6)
    record("vit-timm-deit3", by_timm, {**SMALL, "name": "deit3_b_16"}, deit, image)
    record("vit-timm-resized", by_timm, small, vit(**TIMM, dynamic_img_size=True), (2, 3, 40, 32))
    torchvision_vit = torchvision.models.VisionTransformer(24, 8, 2, 3, 24, 48, num_classes=5)
    record("vit-torchvision", f"torchvision {torchvision.__version__}", small, torchvision_vit, image)
    hf_vit = transformers.ViTForImageClassification(transformers.ViTConfig(**HUGGING_FACE, layer_norm_eps=1e-6))
    record("vit-huggingface", f"transformers {transformers.__version__}", small, hf_vit, image)


def timesformers() -> None:
    """Divided and joint attention as built, and on inputs of another length and shape than built."""
    source, clip = f"transformers {transformers.__version__} TimesformerForVideoClassification", (2, 3, 3, 24, 24)
    for attention, shapes in (
        ("divided", {"": clip, "-tall": (1, 3, 3, 40, 24)}),
        ("joint", {"": clip, "-resized": (1, 3, 5, 45, 19)}),
    ):
        config = transformers.TimesformerConfig(**HUGGING_FACE, num_frames=3, attention_type=f"{attention}_space_time")
        create = {**SMALL, "name": "timesformer", "frames": 3, "attention": attention}
        for suffix, shape in shapes.items():
            network = transformers.TimesformerForVideoClassification(config)
            record(f"timesformer-{attention}{suffix}", source, create, network, shape, video=True)


if __name__ == "__main__":
    image_vits()
    timesformers()
