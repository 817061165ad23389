"""The filters of a network's first layer, and the image's that they began as.

Inflated kernels learn to differ over time: the figure of Carreira & Zisserman, "Quo Vadis, Action Recognition?", CVPR
2017, figure 4.
"""

from __future__ import annotations

import math

import torch
from PIL.Image import Image
from torch import Tensor

from tubelet.backbones import Model, create_model, load_weights
from tubelet.video import contact_sheet

_MOST = 36
_TILE = 96  # pixels of a kernel in the picture
_GREY = 0.5  # of a weight of zero


def draw_filters(model: Model, image_weights: str | None) -> Image:
    """A picture of the first layer's filters, those with the largest weights first: the image's kernel, a gap, then the
    kernel at each moment. Each filter is scaled by its largest weight, zero is grey.

    image_weights: of the image network, lifted as the model is, to compare with; None puts the mean over time in its
    place. Raises WeightsError for weights of another network.
    """
    name, kernels = _first_kernels(model)
    if image_weights is None:
        images, what = kernels.mean(2), "mean over time"
    else:
        began = create_model(**model.config)
        load_weights(began, image_weights)
        images, what = _first_kernels(began)[1].sum(2), "image"  # however it is inflated, its sum is the image's
    order = kernels.flatten(1).norm(dim=1).argsort(descending=True)[:_MOST].tolist()
    strips = torch.stack([_strip(images[number], kernels[number]) for number in order])
    moments = kernels.shape[2]
    labels = [f"{number}: {what} | {moments} in time" for number in order]
    labels[0] = f"{name} {labels[0]}"
    columns = max(1, round(math.sqrt(len(order) * 1.4 / (moments + 2))))
    return contact_sheet(strips, labels, columns, frames_shown=moments + 2)


def _first_kernels(model: Model) -> tuple[str, Tensor]:
    """The name of the first parameter that sees pixels, and its kernels (O, 3, t, h, w); t is 1 where it sees frames."""
    for name, weight in model.named_parameters():
        if weight.ndim in (4, 5) and weight.shape[1] == 3:
            kernels = weight.detach().float().cpu()
            return name.removesuffix(".weight"), kernels if kernels.ndim == 5 else kernels.unsqueeze(2)
    raise AssertionError("every network begins with a convolution over pixels")


def _strip(image: Tensor, kernel: Tensor) -> Tensor:
    """Kernels (3, h, w) and (3, t, h, w) as uint8 (1 + 1 + t, side, side, 3), the second of them the gap."""
    tiles = [_picture(image[:, None]), torch.full((1, *image.shape[1:], 3), 30, dtype=torch.uint8), _picture(kernel)]
    zoom = -(-_TILE // min(image.shape[1:]))
    return torch.cat(tiles).repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)


def _picture(kernel: Tensor) -> Tensor:
    """(3, t, h, w) -> uint8 (t, h, w, 3), scaled over all of it."""
    scaled = kernel / kernel.abs().max().clamp(min=torch.finfo(kernel.dtype).tiny)
    return (255 * (_GREY + scaled / 2)).round().to(torch.uint8).permute(1, 2, 3, 0)
