"""What upscaling took."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """What upscaling one picture took."""

    network_seconds: float = 0.0
    tiles: int = 0
    redone_in_fp32: int = 0
    """Tiles whose first output had NaN or infinity in it."""
    halved: list[tuple[int, int]] = field(default_factory=list)
    """Tile sizes (height, width) taken after memory ran out."""
