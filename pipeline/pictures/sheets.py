"""Clips to look at, class by class: as one picture of strips, or as one page of clips that move."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from PIL import Image

from tubelet.video import contact_sheet

from ..errors import ConfigError
from ..files import write_text

_MOST_STRIPS = 256  # of a picture: beyond that no viewer opens it
_FRAMES_OF_STRIP = 8
_FRAME_MS = 150  # how long a frame of a clip that moves is seen
_QUALITY = 80  # of WebP
_GAP_GREY = 70
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ background: #181a1e; color: #f0f0f0; font: 14px sans-serif; margin: 24px }}
section div {{ display: flex; flex-wrap: wrap; gap: 12px }}
figure {{ margin: 0 }}
img {{ display: block; min-width: 96px; image-rendering: auto }}
figcaption {{ max-width: 224px; overflow-wrap: anywhere; color: #b0b4bc; padding: 4px 0 }}
.gap {{ border: 1px dashed #c66; padding: 8px; max-width: 224px; overflow-wrap: anywhere }}
</style></head><body>
<h1>{title}</h1>
<p>{how}</p>
{sections}
</body></html>
"""


@dataclass(frozen=True)
class Shown:
    """A video by its key: clips uint8 (T, S, S, 3) that lie side by side, each with a caption; or none, and why."""

    key: str
    clips: list[torch.Tensor]
    captions: list[str]
    fault: str | None = None


Videos = Iterator[tuple[int, Shown]]  # with the number of each


def write_sheet(classes: Mapping[str, Sequence[int]], videos: Videos, draws: int, file: Path) -> None:
    """A picture with a row for each video of each class, `draws` strips long. One that cannot be read is a grey row
    with its cause. Raises ConfigError for more than a picture can hold."""
    strips = draws * sum(map(len, classes.values()))
    if strips > _MOST_STRIPS:
        raise ConfigError(
            f"--out {file}: would be {strips} strips, and a picture takes {_MOST_STRIPS}. Name some --classes, lower "
            "--per-class or --draws, or write a page (.html)"
        )
    found = dict(videos)
    whole = next((shown.clips[0] for shown in found.values() if shown.clips), None)
    gap = torch.full((1, 96, 96, 3) if whole is None else whole.shape, _GAP_GREY, dtype=torch.uint8)
    clips, labels = [], []
    for name, members in classes.items():
        for shown in (found[index] for index in members):
            if shown.fault:
                clips += [gap] * draws
                labels += [f"{name}: {shown.key} cannot be read: {shown.fault}"] + [""] * (draws - 1)
                continue
            clips += shown.clips
            first = f"{name}: {shown.key}"
            labels += [f"{first} {shown.captions[0]}".rstrip(), *shown.captions[1:]]
    contact_sheet(torch.stack(clips), labels, draws, _FRAMES_OF_STRIP).save(file)


def write_page(title: str, how: str, classes: Mapping[str, Sequence[int]], videos: Videos, file: Path) -> None:
    """A page that needs no other file and no network: a section for each class, a figure for each clip, animated; a
    video that cannot be read is a gap with its cause."""
    figures = {index: "\n".join(_figures(shown)) for index, shown in videos}
    sections = "\n".join(
        f"<section><h2>{escape(name)}</h2>\n"
        + "\n".join(f"<div>{figures[index]}</div>" for index in members)
        + "</section>"
        for name, members in classes.items()
    )
    write_text(file, _PAGE.format(title=escape(title), how=escape(how), sections=sections))


def _figures(shown: Shown) -> Iterator[str]:
    if shown.fault:
        yield f'<p class="gap">{escape(shown.key)} cannot be read: {escape(shown.fault)}</p>'
    for clip, caption in zip(shown.clips, shown.captions, strict=True):
        text = escape(f"{shown.key} {caption}".rstrip())
        yield f'<figure><img alt="{text}" src="{_animated(clip)}"><figcaption>{text}</figcaption></figure>'


def _animated(clip: torch.Tensor) -> str:
    """uint8 (T, S, S, 3) as a data URL of animated WebP."""
    first, *others = [Image.fromarray(frame) for frame in clip.numpy()]
    data = io.BytesIO()
    first.save(
        data, "WEBP", save_all=True, append_images=others, duration=_FRAME_MS, loop=0, quality=_QUALITY, method=2
    )
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
