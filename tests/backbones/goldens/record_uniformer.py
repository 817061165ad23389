"""Record goldens of UniFormer: MMAction2's backbone, a narrow one, under the names of its recognizer.

    python tests/backbones/goldens/record_uniformer.py     # needs mmaction2 and mmcv-lite 2.1; the tests need none

MMAction2's wheel lacks a file that `mmaction.models` imports, so the backbone's module is loaded by itself.
"""

import importlib.util
from pathlib import Path

import mmaction
import torch
from record import record
from torch import Tensor, nn

SMALL = {"dim": [8, 12, 16, 24], "depth": [1, 2, 1, 1], "head_dim": 8, "mlp_ratio": 2, "num_classes": 5}

path = Path(mmaction.__file__).parent / "models" / "backbones" / "uniformer.py"
spec = importlib.util.spec_from_file_location("mmaction_uniformer", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


class Recognizer(nn.Module):
    """MMAction2's backbone with its I3DHead: the mean over all positions, and `fc_cls`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = module.UniFormer(
            depth=SMALL["depth"], embed_dim=SMALL["dim"], head_dim=SMALL["head_dim"], mlp_ratio=SMALL["mlp_ratio"],
            img_size=32, pretrained2d=False,
        )  # fmt: skip
        self.cls_head = nn.Module()
        self.cls_head.fc_cls = nn.Linear(SMALL["dim"][-1], SMALL["num_classes"])

    def forward(self, clip: Tensor) -> Tensor:
        return self.cls_head.fc_cls(self.backbone(clip).mean((2, 3, 4)))


def uniformers() -> None:
    """Clips whose sides and length the embeddings do not divide."""
    source = f"MMAction2 {mmaction.__version__} UniFormer"
    create = {"name": "uniformer_s", **SMALL, "norm_eps": 1e-5}
    for suffix, shape in (("", (2, 3, 4, 32, 35)), ("-odd", (1, 3, 7, 37, 65))):
        torch.manual_seed(0)
        record(f"uniformer-mmaction{suffix}", source, create, Recognizer(), shape)


if __name__ == "__main__":
    uniformers()
