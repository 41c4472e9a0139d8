"""One image file in, one image file out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from aethernet.artifact import atomic_path
from aethernet.errors import UsageError
from aethernet.upscale.animation import ANIMATED, Animation, animation_of, write_animation
from aethernet.upscale.prefetch import ahead
from aethernet.upscale.reading import Still, only_first, read_still
from aethernet.upscale.statistics import UpscaleStatistics
from aethernet.upscale.writing import FileFormat, format_of, require_fit, write_image

if TYPE_CHECKING:
    from aethernet.upscale.floats import Limits
    from aethernet.upscale.tiles import Cut

__all__ = ["BandUpscaler", "upscale_file"]

Item = TypeVar("Item")


class BandUpscaler(Protocol):
    """What enlarges a decoded image band by band: :class:`~aethernet.upscale.upscaler.Upscaler`."""

    cut: Cut

    @property
    def scale(self) -> int:
        """Output size over input size."""

    @property
    def exact_tiles(self) -> bool:
        """Whether tiles leave no trace."""

    def bands(self, still: Still, statistics: UpscaleStatistics) -> Iterator[Any]:
        """The result from top to bottom."""


def upscale_file(
    upscaler: BandUpscaler,
    source: Path,
    destination: Path,
    *,
    quality: int | None = None,
    limits: Limits = None,
    still: Still | None = None,
    read_seconds: float = 0.0,
) -> dict[str, Any]:
    """Enlarge one image file. Nothing is left behind when it fails.

    Args:
        upscaler: The network.
        source: Any image :func:`~aethernet.upscale.reading.read_still` takes.
        destination: Its ending chooses the format.
        quality: 1 to 100, for formats with loss.
        limits: What is black and what is white in files of floats (:func:`~aethernet.upscale.floats.within`).
        still: ``source``, if it was read already.
        read_seconds: How long that took.

    Returns:
        Facts as JSON values: sizes, tiles, seconds per stage, notes.

    Raises:
        ImageError: It cannot be read, or the result does not fit the format.
        StoreError: It cannot be written.
        UpscaleError: The network cannot be run on it.
    """
    start = time.perf_counter()
    target = format_of(destination)
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"expected a quality of 1 to 100, found {quality}")
    read_ahead = read_seconds
    if still is None:
        still = read_still(source, limits=limits)
        read_seconds = time.perf_counter() - start
    width, height = still.size[0] * upscaler.scale, still.size[1] * upscaler.scale
    require_fit(target, width, height)
    statistics = UpscaleStatistics()
    animated = still.images > 1 and still.format in ANIMATED and target.name in ANIMATED.values()
    paged = still.images > 1 and still.format == "TIFF" and target.name == "tif"
    notes: list[str] = []
    count = 1
    with atomic_path(destination) as temporary:
        if animated:
            animation = animation_of(source)
            count = len(animation.delays)
            notes, write_seconds = _animation(upscaler, animation, still, temporary, target, quality, statistics)
        elif paged:
            count = still.images
            notes, write_seconds = _pages(upscaler, source, still, temporary, target, limits, statistics)
        else:
            notes, write_seconds = _one(upscaler, still, temporary, target, quality, statistics)
    single = 1 + (still.plane is not None)
    if statistics.tiles > single * count and not upscaler.exact_tiles:
        if upscaler.cut.feather:
            notes.append(
                f"this network looks at the whole image, which did not fit into memory: {statistics.tiles} tiles were "
                "faded into each other, and differ slightly from the whole"
            )
        else:
            notes.append(
                f"{statistics.tiles} tiles overlap by {upscaler.cut.margin} pixels, less than the network sees: "
                "the cuts may show"
            )
    if statistics.redone_in_fp32:
        notes.append(f"{statistics.redone_in_fp32} of {statistics.tiles} tiles were not finite and were redone in fp32")
    if statistics.halved:
        notes.append(f"memory ran out; went on with tiles of {statistics.halved[-1][1]}x{statistics.halved[-1][0]}")
    return {
        "source": str(source),
        "destination": str(destination),
        "input_size": list(still.size),
        "output_size": [width, height],
        "images": count,
        "tiles": statistics.tiles,
        "seconds": {
            "read": round(read_seconds, 4),
            "network": round(statistics.network_seconds, 4),
            "write": round(write_seconds, 4),
            "total": round(time.perf_counter() - start + read_ahead, 4),
        },
        "notes": notes,
    }


def _one(
    upscaler: BandUpscaler,
    still: Still,
    temporary: Path,
    target: FileFormat,
    quality: int | None,
    statistics: UpscaleStatistics,
    page: int = 0,
) -> tuple[list[str], float]:
    """Enlarge and write one image; notes, and the seconds that writing took."""
    if not target.cmyk:
        still = still.as_rgb()
    size = (still.size[0] * upscaler.scale, still.size[1] * upscaler.scale)
    with ahead(upscaler.bands(still, statistics), depth=1) as bands:
        began, waits = time.perf_counter(), list[float]()
        notes = write_image(temporary, target, still, _timed(bands, waits), size, quality, page=page)
        return [*still.notes, *notes], time.perf_counter() - began - sum(waits)


def _pages(
    upscaler: BandUpscaler,
    source: Path,
    first: Still,
    temporary: Path,
    target: FileFormat,
    limits: Limits,
    statistics: UpscaleStatistics,
) -> tuple[list[str], float]:
    """Every page of a TIFF; each has its own size, kind, depth and metadata."""
    notes: list[str] = []
    seconds = 0.0
    for page in range(first.images):
        still = read_still(source, page, limits) if page else first
        told, taken = _one(upscaler, still, temporary, target, None, statistics, page)
        told = [note for note in told if note != only_first(first.images)]
        notes += [note if note in notes else f"page {page + 1}: {note}" for note in told]
        seconds += taken
    return notes, seconds


def _animation(
    upscaler: BandUpscaler,
    animation: Animation,
    still: Still,
    temporary: Path,
    target: FileFormat,
    quality: int | None,
    statistics: UpscaleStatistics,
) -> tuple[list[str], float]:
    """Every image of an animation, with its delay."""
    notes = [note for note in still.notes if note != only_first(still.images)]
    notes += animation.notes
    if still.colour.dtype != np.uint8:
        notes.append("an animation has 8 bits per channel: the input's 16 were reduced")
    hidden = animation.hidden_first and target.name == "png"
    if animation.hidden_first and not hidden:
        notes.append(f"{target.name} has no image for programs that know no animation: it was dropped")
    larger = (
        np.concatenate(list(upscaler.bands(Still.of_array(image), statistics)))
        for image in animation.images(hidden_too=hidden)
    )
    waits = list[float]()
    began = time.perf_counter()
    notes += write_animation(
        temporary,
        target.name,
        _timed(larger, waits),
        animation.delays if target.name == animation.form else animation.shown_delays(),
        plays=animation.plays,
        metadata=still.metadata,
        quality=quality if quality is not None else target.quality,
        hidden_first=hidden,
    )
    return notes, time.perf_counter() - began - sum(waits)


def _timed(items: Iterator[Item], waits: list[float]) -> Iterator[Item]:
    """The same items; ``waits`` gets the seconds each took to come."""
    while True:
        asked = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        finally:
            waits.append(time.perf_counter() - asked)
        yield item
