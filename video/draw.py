"""Drawing clips, to look at what a model is shown."""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

_TILE = 96
_GAP = 4
_MARGIN = 24
_TEXT = 16
_BACKGROUND = (24, 26, 30)
_INK = (240, 240, 240)


def contact_sheet(
    clips: torch.Tensor | np.ndarray, labels: list[str], columns: int | None = None, frames_shown: int = 8
) -> Image.Image:
    """A picture of uint8 (N, T, H, W, 3) clips: each is a strip of frames, left to right, with its label under it.

    columns: strips side by side, 1 unless told. frames_shown: at most so many frames of each clip, evenly spread.
    Frames smaller than 96 pixels are enlarged to that. Errors: ValueError where labels and clips differ in number.
    """
    pixels = clips.cpu().numpy() if isinstance(clips, torch.Tensor) else clips
    if len(labels) != len(pixels) or not len(labels):
        raise ValueError(f"{len(pixels)} clips need as many labels, and one at least, not {len(labels)}")
    columns = min(columns or 1, len(pixels))
    if columns < 1 or frames_shown < 1:
        raise ValueError("columns and frames_shown must be 1 or more")
    shown = np.unique(np.linspace(0, pixels.shape[1] - 1, min(frames_shown, pixels.shape[1])).round().astype(int))
    zoom = max(1.0, _TILE / min(pixels.shape[2:4]))
    height, width = round(pixels.shape[2] * zoom), round(pixels.shape[3] * zoom)
    strip = len(shown) * (width + _GAP) - _GAP
    row = height + _TEXT + 3 * _GAP
    rows = math.ceil(len(pixels) / columns)
    sheet_size = (columns * (strip + _MARGIN) + _MARGIN, rows * (row + _MARGIN) + _MARGIN)
    sheet = Image.new("RGB", sheet_size, _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT)
    for number, (clip, label) in enumerate(zip(pixels, labels, strict=True)):
        left = _MARGIN + (number % columns) * (strip + _MARGIN)
        top = _MARGIN + (number // columns) * (row + _MARGIN)
        for at, frame in enumerate(clip[shown]):
            image = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
            sheet.paste(image, (left + at * (width + _GAP), top))
        draw.text((left, top + height + 2 * _GAP), _shortened(label, strip, font), fill=_INK, font=font)
    return sheet


def _shortened(label: str, room: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """`label` on one line, cut to `room` pixels."""
    text = " ".join(label.split())
    if font.getlength(text) <= room:
        return text
    fitting = bisect_right(range(len(text)), room, key=lambda length: math.ceil(font.getlength(text[:length] + "...")))
    return text[: max(fitting - 1, 0)] + "..."
