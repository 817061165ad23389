"""Record the goldens of GoogLeNet and VGG-11 beside this file: torchvision's own forward, with narrow layers put in.

python tests/backbones/goldens/record_inception.py        # needs what record.py needs
"""

from functools import partial

import torchvision
from record import record
from torch import nn
from torchvision.models.googlenet import BasicConv2d, GoogLeNet, Inception, InceptionAux
from torchvision.models.vgg import VGG, cfgs, make_layers

SOURCE, SHARE = f"torchvision {torchvision.__version__}", 16


def _narrow(channels: int, out: int, **convolution: object) -> nn.Module:
    inputs = channels if channels == 3 else channels // SHARE
    return BasicConv2d(inputs, out // SHARE, **convolution)


def googlenets() -> None:
    """On an image of even, and of odd, sizes: what the pools make of their last rows differs."""
    for name, shape in (("even", (1, 3, 64, 48)), ("odd", (1, 3, 47, 58))):
        blocks = [_narrow, partial(Inception, conv_block=_narrow), InceptionAux]
        network = GoogLeNet(num_classes=5, aux_logits=False, init_weights=False, blocks=blocks)
        network.fc = nn.Linear(1024 // SHARE, 5)
        create = {"name": "googlenet", "num_classes": 5, "width": 64 // SHARE}
        record(f"googlenet-{name}", f"{SOURCE} GoogLeNet, widths / {SHARE}", create, network, shape)


def vggs() -> None:
    """Plain and with batch norm, on a map smaller and one larger than the 7 x 7 of the classifier."""
    plan, hidden, share = cfgs["A"], 16, 32
    narrow = [layer if layer == "M" else layer // share for layer in plan]
    for name, bn, shape in (("vgg11", False, (1, 3, 70, 64)), ("vgg11_bn", True, (1, 3, 40, 256))):
        network = VGG(make_layers(narrow, batch_norm=bn), num_classes=5, init_weights=False)
        classifier = (nn.Linear(512 // share * 49, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 5))
        for place, layer in zip((0, 3, 6), classifier, strict=True):
            network.classifier[place] = layer
        create = {"name": name, "num_classes": 5, "width": 64 // share, "hidden": hidden}
        record(f"{name.replace('_', '-')}-torchvision", f"{SOURCE} VGG-11, widths / {share}", create, network, shape)


if __name__ == "__main__":
    googlenets()
    vggs()
