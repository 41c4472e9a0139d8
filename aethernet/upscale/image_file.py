"""One picture file in, one picture file out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aethernet.artifact import atomic_path
from aethernet.errors import UsageError
from aethernet.upscale.prefetch import ahead
from aethernet.upscale.reading import Still, read_still
from aethernet.upscale.statistics import Tally
from aethernet.upscale.writing import format_of, require_fit, write_picture

if TYPE_CHECKING:
    from aethernet.upscale.tiles import Cut

__all__ = ["BandUpscaler", "upscale_file"]

Item = TypeVar("Item")


class BandUpscaler(Protocol):
    """What enlarges a decoded picture band by band: :class:`~aethernet.upscale.upscaler.Upscaler`."""

    cut: Cut

    @property
    def scale(self) -> int:
        """Output size over input size."""

    @property
    def exact_tiles(self) -> bool:
        """Whether tiles leave no trace."""

    def bands(self, still: Still, tally: Tally) -> Iterator[Any]:
        """The result from top to bottom."""


def upscale_file(
    upscaler: BandUpscaler,
    source: Path,
    destination: Path,
    *,
    quality: int | None = None,
    still: Still | None = None,
    read_seconds: float = 0.0,
) -> dict[str, Any]:
    """Enlarge one picture file. Nothing is left behind when it fails.

    Args:
        upscaler: The network.
        source: Any picture :func:`~aethernet.upscale.reading.read_still` takes.
        destination: Its ending chooses the format.
        quality: 1 to 100, for formats with loss.
        still: ``source``, if it was read already.
        read_seconds: How long that took.

    Returns:
        Facts as JSON values: sizes, tiles, seconds per stage, notes.

    Raises:
        PictureError: It cannot be read, or the result does not fit the format.
        StoreError: It cannot be written.
        UpscaleError: The network cannot be run on it.
    """
    start = time.perf_counter()
    target = format_of(destination)
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"expected a quality of 1 to 100, found {quality}")
    read_ahead = read_seconds
    if still is None:
        still = read_still(source)
        read_seconds = time.perf_counter() - start
    width, height = still.size[0] * upscaler.scale, still.size[1] * upscaler.scale
    require_fit(target, width, height)
    if not target.cmyk:
        still = still.as_rgb()
    tally = Tally()
    with ahead(upscaler.bands(still, tally), depth=1) as bands, atomic_path(destination) as temporary:
        began, waits = time.perf_counter(), list[float]()
        notes = [*still.notes, *write_picture(temporary, target, still, _timed(bands, waits), (width, height), quality)]
        write_seconds = time.perf_counter() - began - sum(waits)
    if tally.tiles > 1 + (still.plane is not None) and not upscaler.exact_tiles:
        if upscaler.cut.feather:
            notes.append(
                f"this network looks at the whole picture, which did not fit into memory: {tally.tiles} tiles were "
                "faded into each other, and differ slightly from the whole"
            )
        else:
            notes.append(
                f"{tally.tiles} tiles overlap by {upscaler.cut.margin} pixels, less than the network sees: the cuts "
                "may show"
            )
    if tally.redone_in_fp32:
        notes.append(f"{tally.redone_in_fp32} of {tally.tiles} tiles were not finite and were redone in fp32")
    if tally.halved:
        notes.append(f"memory ran out; went on with tiles of {tally.halved[-1][1]}x{tally.halved[-1][0]}")
    return {
        "source": str(source),
        "destination": str(destination),
        "input_size": list(still.size),
        "output_size": [width, height],
        "tiles": tally.tiles,
        "seconds": {
            "read": round(read_seconds, 4),
            "network": round(tally.network_seconds, 4),
            "write": round(write_seconds, 4),
            "total": round(time.perf_counter() - start + read_ahead, 4),
        },
        "notes": notes,
    }


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
