"""Cutting a picture so that it fits into memory, without the cuts changing it.

A network without global pooling sees :attr:`~aethernet.networks.config.NetworkConfig.receptive_radius` pixels in every
direction. A tile that reads so much more than it keeps computes what the whole picture would have given there; only
rounding differs. A network that pools globally has no such radius: its tiles overlap all the same and are faded into
each other, which hides the seams but does not make the result equal.

Rows come out in order, a band at a time, so that a picture never has to be whole in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.errors import UpscaleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aethernet.images.files import ImageArray

__all__ = ["Cut", "Span", "TileSize", "out_of_memory", "rows", "size_tiles", "spans"]

FEATHER = 16
"""Input pixels over which neighbours are faded into each other on each side of a cut, for networks that pool."""

_LEAST_WINDOW = 256**2
"""Pixels of a window below which starting the network costs more than overlapping saves."""


UNKNOWN_REACH = 32
"""Input pixels that tiles overlap by where nobody knows how far a network looks; they are faded into each other too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSize:
    """Largest window that is given to the network, in input pixels, margins included."""

    height: int
    width: int
    smallest: tuple[int, int] = (1, 1)
    """Height and width below which the network takes no window: padding one up would change what is at its edge."""

    def halved(self, floor: int) -> TileSize:
        """The longer side halved, never below ``floor``.

        Raises:
            UpscaleError: Both sides are there already.
        """
        if max(self.height, self.width) <= floor:
            raise UpscaleError(
                f"not enough memory for a tile of {self.width}x{self.height} pixels",
                hint="close other programs, take a smaller network, or another --runtime",
            )
        if self.height >= self.width:
            return replace(self, height=max(floor, self.height // 2))
        return replace(self, width=max(floor, self.width // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How neighbouring tiles meet."""

    margin: int
    """Input pixels a tile reads beyond what it keeps."""
    feather: int = 0
    """Input pixels on each side of a cut over which neighbours are mixed; 0 is a hard cut."""

    @property
    def floor(self) -> int:
        """Smallest side of a tile that still makes headway, and whose two fading edges stay apart.

        Windows are made even, which leaves each two thirds of what it could keep at worst.
        """
        return 2 * self.margin + max(16, 3 * self.feather)


@dataclass(frozen=True, slots=True)
class Span:
    """One axis of a tile: reads [start, stop), keeps [first, last)."""

    start: int
    stop: int
    first: int
    last: int


def spans(length: int, size: int, margin: int, smallest: int = 1) -> list[Span]:
    """Cover ``length`` pixels with windows of one size; kept parts touch, windows reach ``margin`` beyond them."""
    count, size = _shared_out(length, size, margin)
    step = size - 2 * margin
    size = max(size, min(smallest, length))
    found = []
    for index in range(count):
        start = min(index * step, length - size)
        first = index * step + margin if index else 0
        last = (index + 1) * step + margin if index < count - 1 else length
        found.append(Span(start, start + size, first, last))
    return found


def _shared_out(length: int, size: int, margin: int) -> tuple[int, int]:
    """How many windows of at most ``size`` it takes, and the size with which they end where ``length`` does."""
    if length <= size:
        return 1, length
    count = math.ceil((length - 2 * margin) / (size - 2 * margin))
    return count, math.ceil((length - 2 * margin) / count) + 2 * margin


def size_tiles(height: int, width: int, pixels: int, cut: Cut, overlap_cost: float = math.inf) -> TileSize:
    """The window for a picture: whole if it fits, else the one with which the fewest pixels are computed.

    Args:
        height: Of the picture.
        width: Of the picture.
        pixels: Most input pixels that fit into memory.
        cut: How tiles meet.
        overlap_cost: A window need not be larger than a square one that computes so many times the pixels it keeps.
    """
    if height * width <= pixels:
        return TileSize(height=height, width=width)
    if cut.margin and math.isfinite(overlap_cost):
        worthwhile = math.ceil(2 * cut.margin / (1 - overlap_cost**-0.5)) ** 2
        pixels = min(pixels, max(worthwhile, _LEAST_WINDOW))
    pixels = max(pixels, cut.floor**2)
    found: list[tuple[int, TileSize]] = []
    for columns in range(1, width + 1):
        wide = max(cut.floor, math.ceil((width - 2 * cut.margin) / columns) + 2 * cut.margin)
        across, wide = _shared_out(width, wide, cut.margin)
        tall = min(height, pixels // wide)
        if tall == height or tall >= cut.floor:
            down, tall = _shared_out(height, tall, cut.margin)
            found.append((down * tall * across * wide, TileSize(height=tall, width=wide)))
        if tall == height or wide <= cut.floor:
            break  # narrower windows only overlap more
    return min(found, key=lambda entry: entry[0])[1]


_OUT_OF_MEMORY = (
    "out of memory",
    "bad allocation",
    "bad_alloc",
    "failed to allocate",
    "can't allocate memory",
    "cannot allocate memory",
    "outofmemory",
    "not enough memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether a runtime's exception means that memory ran out; most runtimes say so in words only."""
    if isinstance(error, MemoryError):
        return True
    told = f"{type(error).__name__} {error}".lower()
    return any(words in told for words in _OUT_OF_MEMORY)


def rows(
    shape: tuple[int, int],
    read: Callable[[slice, slice], ImageArray],
    infer: Callable[[ImageArray], ImageArray],
    store: Callable[[ImageArray], NDArray[Any]],
    *,
    scale: int,
    cut: Cut,
    size: TileSize,
    on_halved: Callable[[TileSize], None] = lambda _: None,
) -> Iterator[NDArray[Any]]:
    """Upscale a picture band by band.

    Args:
        shape: Height and width of the picture.
        read: Rows, columns -> [1, C, h, w] float32 in [0, 1].
        infer: Runs the network, [1, C, h, w] -> [1, C, s*h, s*w].
        store: Turns [C, h, w] floats into what is to be kept of them, same shape.
        scale: Of the network.
        cut: How tiles meet.
        size: Largest tile; halved when ``infer`` runs out of memory, and the work goes on where it was.
        on_halved: Told the new size.

    Yields:
        [C, rows, s*W] of ``store``'s type, from top to bottom without gaps.
    """
    height, width = shape
    feather = cut.feather
    first = spans(height, size.height, cut.margin, size.smallest[0])[0]
    size = replace(size, height=first.stop)  # bands of equal height
    row, pending = 0, None
    while row < height:
        top = max(0, min(row - cut.margin, height - size.height))
        bottom = min(height, top + size.height)
        last = height if bottom == height else bottom - cut.margin
        before = feather if row else 0
        after = feather if last < height else 0
        try:
            band = _band(
                slice(top, bottom), slice(row - before, last + after), width, read, infer, store, scale, cut, size
            )
        except Exception as error:  # every runtime has exceptions of its own
            if not out_of_memory(error):
                raise
            size = size.halved(cut.floor)
            on_halved(size)
            continue
        if not feather:
            yield band
        else:
            if pending is not None:
                ramp = _ramp(2 * feather * scale)[:, None]
                band[:, : len(ramp)] = pending * (1 - ramp) + band[:, : len(ramp)] * ramp
            kept = band.shape[1] - 2 * after * scale
            pending = band[:, kept:].copy() if after else None
            yield store(band[:, :kept])
        row = last


def _band(
    reads: slice,
    keeps: slice,
    width: int,
    read: Callable[[slice, slice], ImageArray],
    infer: Callable[[ImageArray], ImageArray],
    store: Callable[[ImageArray], NDArray[Any]],
    scale: int,
    cut: Cut,
    size: TileSize,
) -> NDArray[Any]:
    """One row of tiles; floats where cuts are feathered, stored values otherwise."""
    upper, lower = (keeps.start - reads.start) * scale, (keeps.stop - reads.start) * scale
    band: NDArray[Any] | None = None
    for span in spans(width, size.width, cut.margin, size.smallest[1]):
        output = infer(read(reads, slice(span.start, span.stop)))[0]
        before = cut.feather if span.first else 0
        after = cut.feather if span.last < width else 0
        left, right = span.first - before, span.last + after
        part = output[:, upper:lower, (left - span.start) * scale : (right - span.start) * scale]
        if not cut.feather:
            part = store(part)
        if band is None:
            band = np.zeros((part.shape[0], lower - upper, width * scale), dtype=part.dtype)
        if cut.feather:
            part = part.copy()
            if before:
                part[..., : 2 * before * scale] *= _ramp(2 * before * scale)
            if after:
                part[..., -2 * after * scale :] *= 1 - _ramp(2 * after * scale)
            band[..., left * scale : right * scale] += part
        else:
            band[..., left * scale : right * scale] = part
    if band is None:
        raise UpscaleError(f"expected a picture with pixels, found {width} columns")
    return band


def _ramp(length: int) -> NDArray[np.float32]:
    """Rises from just above 0 to just below 1, so that it and its mirror image add up to one."""
    return (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(length)
