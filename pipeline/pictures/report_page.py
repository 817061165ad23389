"""The page of a run: what `tubelet report` has found out, as HTML that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import torch
from PIL import Image

_FRAMES_OF_STRIP = 8
_SIDE, _GAP = 112, 4  # pixels of a frame, and from one to the next
_QUALITY = 82  # of WebP
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --paper: #f6f7f9; --card: #fff; --ink: #1b1f27; --soft: #5d6675; --rule: #e3e6ec; --a: #2563c9; --b: #c2561a;
  --c: #25835a; --miss: #c2362b; --field: #f0f2f6 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #14171c; --card: #1d2128; --ink: #eceff4; --soft: #9aa4b4; --rule: #2e343e; --a: #6ea3ff;
    --b: #f09a5c; --c: #5ccb98; --miss: #ff7d70; --field: #262b33 }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }}
main {{ max-width: 1080px; margin: 0 auto; padding: 40px 20px 64px }}
h1 {{ font-size: 30px; line-height: 1.2; margin: 0; letter-spacing: -0.02em; overflow-wrap: anywhere }}
h2 {{ font-size: 19px; margin: 44px 0 14px; letter-spacing: -0.01em }}
h3 {{ font-size: 15px; margin: 22px 0 10px }}
p {{ margin: 6px 0 14px }}
.soft, figcaption, dt, th {{ color: var(--soft) }}
.card {{ background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 16px; margin: 0 }}
.facts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0 0 }}
.facts dt {{ font-size: 13px }}
.facts dd {{ margin: 2px 0 0; font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere }}
.facts small {{ display: block; font-size: 12px; font-weight: 400; color: var(--soft) }}
.grid2 {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 14px }}
figcaption {{ display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; margin-bottom: 8px }}
figcaption b {{ color: var(--ink) }}
figcaption span::before {{ content: ""; display: inline-block; width: 14px; height: 3px; margin: 0 6px 3px 0;
  border-radius: 2px; background: currentColor }}
svg {{ display: block; width: 100%; height: auto }}
svg text {{ font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums }}
.grid {{ stroke: var(--rule) }}
.line {{ fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round }}
circle {{ fill: currentColor }}
.a {{ color: var(--a) }} .b {{ color: var(--b) }} .c {{ color: var(--c) }}
.matrix {{ margin: 0 auto }}
.field {{ fill: var(--field) }} .hit {{ fill: var(--a) }} .miss {{ fill: var(--miss) }}
.matrix .count {{ font-size: 13px; fill: var(--ink) }}
.matrix .strong {{ fill: var(--card); font-weight: 600 }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }}
th, td {{ text-align: left; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: anywhere }}
th {{ font-weight: 500; font-size: 13px }}
tr:last-child td {{ border: 0 }}
.strip {{ margin: 0 0 12px }}
.strip img {{ display: block; width: 100%; height: auto; border-radius: 6px }}
.strip figcaption {{ margin: 8px 0 0 }}
.gap {{ border-style: dashed; margin-bottom: 12px }}
details {{ margin-bottom: 12px }}
summary {{ cursor: pointer; font-weight: 600 }}
pre {{ overflow-x: auto; font: 13px/1.5 ui-monospace, monospace; margin: 12px 0 0 }}
</style></head><body><main>
<h1>{title}</h1>
<p class="soft">{subtitle}</p>
{body}
</main></body></html>
"""


def page(title: str, subtitle: str, parts: Iterable[str]) -> str:
    body = "\n".join(filter(None, parts))
    return _PAGE.format(title=escape(title), subtitle=escape(subtitle), body=body)


def facts(rows: Sequence[tuple[str, str, str]]) -> str:
    """Cards: what, how much, and a small word under it."""
    cards = (
        f'<div class="card"><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>'
        for name, value, note in rows
    )
    return f'<dl class="facts">{"".join(cards)}</dl>'


def section(title: str, *parts: str) -> str:
    """A part of the page; empty where all of it is."""
    body = "\n".join(filter(None, parts))
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>" if body else ""


def side_by_side(*figures: str) -> str:
    shown = "\n".join(filter(None, figures))
    return f'<div class="grid2">{shown}</div>' if shown else ""


def card(*parts: str) -> str:
    return f'<div class="card">{"".join(parts)}</div>'


def words(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Empty without rows."""
    lines = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    if not lines:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def folded(title: str, text: str) -> str:
    """A text that is shown when it is asked for."""
    return f'<details class="card"><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>'


def strip(clip: torch.Tensor, caption: str, note: str) -> str:
    """A clip uint8 (T, S, S, 3) as frames side by side."""
    chosen = torch.linspace(0, len(clip) - 1, min(_FRAMES_OF_STRIP, len(clip))).round().long().unique()
    picture = Image.new("RGBA", ((_SIDE + _GAP) * len(chosen) - _GAP, _SIDE))
    for place, frame in enumerate(clip[chosen].numpy()):
        shown = Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        picture.paste(shown, ((_SIDE + _GAP) * place, 0))
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=_QUALITY)
    source = f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
    return (
        f'<figure class="card strip"><img alt="{escape(caption)}" src="{source}">'
        f"<figcaption><b>{escape(caption)}</b>{escape(note)}</figcaption></figure>"
    )


def gap(text: str) -> str:
    """In the place of what cannot be shown."""
    return f'<p class="card gap soft">{escape(text)}</p>'
