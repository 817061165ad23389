"""The filters of a network's first layer, and the image's that they began as.

Inflated kernels learn to differ over time: the figure of Carreira & Zisserman, "Quo Vadis, Action Recognition?", CVPR
2017, figure 4.
"""

from __future__ import annotations

import math

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from tubelet.backbones import Model, create_model, load_weights

_MOST = 36
_INCHES = 0.85  # a kernel in the picture
_GAP, _BETWEEN, _BELOW = 0.12, 0.45, 0.35  # in kernels: after the image's, between filters, and for a number


def draw_filters(model: Model, image_weights: str | None) -> Figure:
    """The first layer's filters, those with the largest weights first: the image's kernel, a gap, then the kernel at
    each moment. Both are scaled by their largest weight; zero is grey.

    image_weights: of the image network, lifted as the model is, to compare with; None puts the mean over time in its
    place, or, in a network that sees frame by frame, nothing. Raises WeightsError for weights of another network.
    """
    name, kernels = _first_kernels(model)
    moments, what = kernels.shape[2], ""
    images: Tensor | None = None
    if image_weights is not None:
        began = create_model(**model.config)
        load_weights(began, image_weights)
        images, what = _first_kernels(began)[1].sum(2), "the image's kernel, then "  # however inflated, that is its sum
    elif moments > 1:
        images, what = kernels.mean(2), "the mean over time, then "
    order = kernels.flatten(1).norm(dim=1).argsort(descending=True)[:_MOST].tolist()
    width, height = moments + _BETWEEN + (0 if images is None else 1 + _GAP), 1 + _BELOW
    columns = min(len(order), max(1, round(math.sqrt(len(order) * 1.4 * height / width))))
    rows = -(-len(order) // columns)
    figure = Figure(
        (_INCHES * columns * width, _INCHES * rows * height + 0.6),
        dpi=130,
        layout=ConstrainedLayoutEngine(w_pad=_INCHES * _BETWEEN / 2),
    )
    FigureCanvasAgg(figure)
    for place, number in enumerate(order, 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(
            _strip(None if images is None else images[number], kernels[number]).numpy(), interpolation="nearest"
        )
        axes.set_xlabel(str(number), fontsize=7, labelpad=1)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    figure.suptitle(f"{name}: {what}{moments} in time" if moments > 1 else f"{name}: {what}the network's", fontsize=9)
    return figure


def _first_kernels(model: Model) -> tuple[str, Tensor]:
    """The name of the first parameter that sees pixels, and its kernels (O, 3, t, h, w), t 1 for frames."""
    for name, weight in model.named_parameters():
        if weight.ndim in (4, 5) and weight.shape[1] == 3:
            kernels = weight.detach().float().cpu()
            return name.removesuffix(".weight"), kernels if kernels.ndim == 5 else kernels.unsqueeze(2)
    raise AssertionError("every network begins with a convolution over pixels")


def _strip(image: Tensor | None, kernel: Tensor) -> Tensor:
    """Kernels (3, h, w) and (3, t, h, w) side by side, uint8 (h, gap and all, 3), with a thin line between moments."""
    height, width = kernel.shape[2:]
    zoom = -(-48 // height)
    line, gap = (torch.full((zoom * height, wide, 3), 255, dtype=torch.uint8) for wide in (2, int(zoom * width * _GAP)))
    tiles = [] if image is None else [_picture(image[:, None], zoom)[0], gap]
    for moment in _picture(kernel, zoom):
        tiles += [moment, line]
    return torch.cat(tiles[:-1], dim=1)


def _picture(kernel: Tensor, zoom: int) -> Tensor:
    """(3, t, h, w) -> uint8 (t, h, w, 3), `zoom` times as large, scaled over all of it."""
    scaled = kernel / kernel.abs().max().clamp(min=torch.finfo(kernel.dtype).tiny)
    pixels = (127.5 * (1 + scaled)).round().to(torch.uint8).permute(1, 2, 3, 0)
    return pixels.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
