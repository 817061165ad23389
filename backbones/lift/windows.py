"""Windows over a grid of tokens, of an image (H, W) or, with a side in time, of a video (T, H, W).

Shapes: grid (G1, ..., Gr) of L tokens, window (w1, ..., wr) of N places; W windows cover the grid, padded where a side
does not divide. A table of relative positions is ((2 * w1 - 1) * ... * (2 * wr - 1), heads), first axis outermost.

Which token stands where is worked out once for a grid, as indices: shifting, padding, cutting into windows and sorting
those are then one gather, and undoing it all is another. Windows with the same mask are neighbours, so that a mask is
kept once and not for each window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from itertools import product
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -100.0  # what Swin adds to the score of two tokens that only the cyclic shift made neighbours


class Padding(NamedTuple):
    """Windows with more places than there are tokens: which of the ordered tokens stands at each place, slots (W * N);
    where none does, empty (W * N, 1); and the place of each ordered token, filled (L)."""

    slots: Tensor
    empty: Tensor
    filled: Tensor

    def part(self, start: int, stop: int) -> tuple[slice, Padding]:
        """The places from `start` to before `stop` alone, and which of the ordered tokens are in them."""
        ends = torch.searchsorted(self.filled, torch.tensor([start, stop], device=self.filled.device)).tolist()
        empty, within = self.empty[start:stop], slice(*ends)
        slots = (self.slots[start:stop] - ends[0]).masked_fill(empty[:, 0], 0)
        return within, Padding(slots, empty, self.filled[within] - start)


class Windows(NamedTuple):
    """How the tokens of one grid fall into windows.

    order (L) names the grid's tokens window by window, places (L) is the way back, and padding says how they spread
    over the windows' places, None if they fill them. masks holds, in the windows' order, how many have the same mask
    (N, N), true where MASKED is to be added to a score, and that mask or None. pairs (N, N) is the entry of the table
    of relative positions that belongs to each two places of a window.
    """

    order: Tensor
    places: Tensor
    padding: Padding | None
    masks: tuple[tuple[int, Tensor | None], ...]
    pairs: Tensor

    @property
    def size(self) -> int:
        """N, the number of places of a window."""
        return self.pairs.shape[0]

    def part(self, first: int, last: int) -> Windows:
        """The windows from `first` to before `last` alone, to gather from all tokens."""
        start, stop = first * self.size, last * self.size
        if self.padding is None:
            return self._replace(order=self.order[start:stop])
        within, padding = self.padding.part(start, stop)
        return self._replace(order=self.order[within], padding=padding)

    def fill(self, rows: Tensor) -> Tensor:
        """Ordered tokens (B, L, C) -> (B, W, N, C), zero where a window is padded."""
        if self.padding is not None:
            slots, empty, filled = self.padding
            rows = permute(rows, slots, filled).masked_fill(empty, 0)
        return rows.unflatten(1, (-1, self.size))

    def drain(self, windows: Tensor) -> Tensor:
        """The way back: (B, W, N, C) -> (B, L, C), without the padding."""
        rows = windows.flatten(1, 2)
        if self.padding is None:
            return rows
        slots, empty, filled = self.padding
        return permute(rows, filled, slots, empty)


class _Permute(torch.autograd.Function):
    """A gather along axis 1 whose gradient is a gather too, where the general one would scatter and add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, unused: Tensor | None) -> Tensor:
        ctx.inverse, ctx.unused = inverse, unused
        return x.index_select(1, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        grad = grad.index_select(1, ctx.inverse)
        return grad if ctx.unused is None else grad.masked_fill_(ctx.unused, 0), None, None, None


def permute(x: Tensor, index: Tensor, inverse: Tensor, unused: Tensor | None = None) -> Tensor:
    """x[:, index], where `inverse` is the way back; `unused` (entries, 1) is true for entries of x not in `index`.

    An entry that stands in `index` again only for padding must get no gradient there.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return x.index_select(1, index)
    return _Permute.apply(x, index, inverse, unused)


def windows_over(
    x: Tensor, window: Sequence[int], shift: Sequence[int], shrink: bool, pad_last: bool = False
) -> Windows:
    """The windows of a grid of tokens `x` (B, G1, ..., Gr, C), on its device.

    An axis no longer than the window is not shifted, and with `shrink` the window becomes as short as the axis;
    else it is padded. `pad_last` pads the shifted grid (timm) rather than shifting the padded one.
    """
    grid = tuple(x.shape[1:-1])
    shift = tuple(0 if side <= w else s for side, w, s in zip(grid, window, shift, strict=True))
    arguments = (grid, tuple(window), shift, shrink, pad_last, x.device)
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        # Imports the compiler, whose two seconds only those who compile should pay.
        from .constants import constant_windows

        return constant_windows(*arguments)
    if torch.compiler.is_exporting() or type(x) not in (Tensor, nn.Parameter):
        return _windows(*arguments)  # fake tensors of a tracer must not be kept
    with torch.inference_mode(False):  # what is kept must serve training as well
        return kept_windows(*arguments)


def relative_positions(window: Sequence[int], device: torch.device | None = None) -> Tensor:
    """The entry (N, N) of the table that belongs to the offset between each two places of a window."""
    entry = torch.zeros(1, 1, dtype=torch.int64, device=device)
    for side in window:
        place = torch.arange(side, device=device)
        offset = place[:, None, None] - place + side - 1
        entry = (entry[:, None, :, None] * (2 * side - 1) + offset).flatten(2).flatten(0, 1)
    return entry


def relative_offsets(window: Sequence[int]) -> int:
    """The number of entries of a window's table: one for each offset between two of its places."""
    return math.prod(2 * side - 1 for side in window)


class Windowed(Protocol):
    """A module that attends within windows and learns a table of relative positions."""

    window: tuple[int, ...]
    relative_position_bias_table: nn.Parameter


def lift_windows(module: Windowed, frames: int) -> None:
    """Give a module's windows a side in time. Its table becomes the same for every offset in time, so that at first
    time is of no importance ("Video Swin Transformer", section 3.3)."""
    module.window = (frames, *module.window)
    table = module.relative_position_bias_table.detach()
    module.relative_position_bias_table = nn.Parameter(table.repeat(2 * frames - 1, 1))


def resize_table(table: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """A table of relative positions for another window: bicubic over the last two axes as published, linear in time."""
    sides, wanted = [2 * w - 1 for w in old], [2 * w - 1 for w in new]
    entries = table.float().t().unflatten(1, sides)  # (heads, [T,] H, W)
    if sides[-2:] != wanted[-2:]:
        flat = entries.reshape(1, -1, *sides[-2:])
        entries = F.interpolate(flat, size=wanted[-2:], mode="bicubic").view(*entries.shape[:-2], *wanted[-2:])
    if len(sides) == 3 and sides[0] != wanted[0]:
        over_time = F.interpolate(entries.flatten(2).transpose(1, 2), size=wanted[0], mode="linear")
        entries = over_time.transpose(1, 2)
    return entries.flatten(1).t().to(table.dtype)


def _windows(
    grid: tuple[int, ...],
    window: tuple[int, ...],
    shift: tuple[int, ...],
    shrink: bool,
    pad_last: bool,
    device: torch.device,
) -> Windows:
    shape = tuple(min(pair) for pair in zip(grid, window, strict=True)) if shrink else window
    places, length, axes = math.prod(shape), math.prod(grid), tuple(range(len(grid)))
    back = [-s for s in shift]
    token = torch.arange(length, device=device).view(grid)
    ends = [size for side, w in zip(grid[::-1], shape[::-1], strict=True) for size in (0, -side % w)]
    if pad_last:
        token = F.pad(token.roll(back, axes), ends, value=length)
    else:
        token = F.pad(token, ends, value=length).roll(back, axes)
    for axis in reversed(axes):
        token = token.unflatten(axis, (-1, shape[axis]))  # (n1, w1, ..., nr, wr)
    token = token.permute(*(2 * axis for axis in axes), *(2 * axis + 1 for axis in axes))

    groups, masks = [], []
    for cut, mask in _masks(shape, shift, device):
        groups.append(token[cut].reshape(-1, places))
        masks.append((groups[-1].shape[0], mask))
    tokens = torch.cat(groups).flatten()
    pairs = relative_positions(window, device)[:places, :places]  # as published, also where H or W shrank
    if len(tokens) == length:
        return Windows(tokens, _inverse(tokens, length), None, tuple(masks), pairs)
    empty = tokens == length
    rank = torch.where(empty, length, (~empty).cumsum(0) - 1)
    filled = _inverse(rank, length + 1)[:length]
    order, padding = tokens[filled], Padding(_inverse(filled, len(tokens)), empty[:, None], filled)
    return Windows(order, _inverse(order, length), padding, tuple(masks), pairs)


def _inverse(index: Tensor, length: int) -> Tensor:
    """For each of `length` entries where it stands in `index`, and 0 where it does not."""
    places = torch.arange(index.shape[0], device=index.device)
    return torch.zeros(length, dtype=torch.int64, device=index.device).scatter(0, index, places)


kept_windows = lru_cache(maxsize=32)(_windows)


def _masks(
    window: Sequence[int], shift: Sequence[int], device: torch.device
) -> Iterator[tuple[tuple[slice, ...], Tensor | None]]:
    """Each group of windows with one mask, as a slice of every axis of windows, and that mask.

    The shift brings together what is apart only in the last window along an axis, so an axis has two kinds.
    """
    apart = []
    for axis, (w, s) in enumerate(zip(window, shift, strict=True)):
        beyond = (torch.arange(w, device=device) >= w - s).view(-1, *[1] * (len(window) - 1 - axis))
        beyond = beyond.expand(window).flatten()
        apart.append(beyond[:, None] != beyond)
    for last in product(*((False, True) if s else (False,) for s in shift)):
        cut = [slice(-1, None) if end else slice(-1) if s else slice(None) for s, end in zip(shift, last, strict=True)]
        along = [one for one, end in zip(apart, last, strict=True) if end]
        yield tuple(cut), reduce(torch.logical_or, along) if along else None
