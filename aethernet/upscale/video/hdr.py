"""What an HDR video says about the display it was made on, for encoders that take it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

__all__ = ["Light", "light_of"]

_MASTERING = struct.Struct("=20i2i")
"""AVMasteringDisplayMetadata: ten fractions (x and y of red, green, blue, white; darkest, brightest) and two flags."""
_LEVELS = struct.Struct("=2I")
_DYNAMIC = {"DYNAMIC_HDR_PLUS": "HDR10+", "DOVI_METADATA": "Dolby Vision", "DYNAMIC_HDR_VIVID": "HDR Vivid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """SMPTE ST 2086 mastering display and CTA-861.3 content light level."""

    primaries: tuple[Fraction, ...] = ()
    """CIE 1931 x and y of red, green, blue and white; empty where the video does not say."""
    luminance: tuple[Fraction, ...] = ()
    """Darkest and brightest, in cd/m²; empty where the video does not say."""
    levels: tuple[int, int] | None = None
    """Brightest pixel and brightest average of an image, in cd/m²."""
    dynamic: tuple[str, ...] = ()
    """Kinds of what changes from image to image."""

    def __bool__(self) -> bool:
        return bool((self.primaries and self.luminance) or self.levels)

    def x26x(self, display: str, levels: str) -> list[str]:
        """``key=value`` for x264 and x265: chromaticity in 1/50,000, luminance in 1/10,000 cd/m².

        Args:
            display: The encoder's name of the mastering display.
            levels: That of the content light level.
        """
        told = []
        if self.primaries and self.luminance:
            told.append(f"{display}={self._display(lambda xy: round(xy * 50_000), lambda cd: round(cd * 10_000))}")
        if self.levels:
            told.append(f"{levels}={self.levels[0]},{self.levels[1]}")
        return told

    def svtav1(self) -> list[str]:
        """``key=value`` for SVT-AV1: chromaticity and cd/m² as decimals."""
        told = []
        if self.primaries and self.luminance:
            told.append(
                f"mastering-display={self._display(lambda xy: f'{float(xy):.5f}', lambda cd: f'{float(cd):.4f}')}"
            )
        if self.levels:
            told.append(f"content-light={self.levels[0]},{self.levels[1]}")
        return told

    def _display(self, place: Any, brightness: Any) -> str:
        red, green, blue, white = (
            f"({place(self.primaries[2 * index])},{place(self.primaries[2 * index + 1])})" for index in range(4)
        )
        darkest, brightest = (brightness(value) for value in self.luminance)
        return f"G{green}B{blue}R{red}WP{white}L({brightest},{darkest})"


def light_of(frame: Any) -> Light:
    """What stands beside an image."""
    beside = {}
    for index in range(len(frame.side_data)):
        one = frame.side_data[index]
        beside[one.type.name] = bytes(one)
    primaries: tuple[Fraction, ...] = ()
    luminance: tuple[Fraction, ...] = ()
    if len(found := beside.get("MASTERING_DISPLAY_METADATA", b"")) >= _MASTERING.size:
        *numbers, has_primaries, has_luminance = _MASTERING.unpack_from(found)
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        values = [Fraction(over, under) if under else Fraction(0) for over, under in pairs]
        primaries = tuple(values[:8]) if has_primaries else ()
        luminance = tuple(values[8:]) if has_luminance else ()
    levels = None
    if len(found := beside.get("CONTENT_LIGHT_LEVEL", b"")) >= _LEVELS.size:
        levels = _LEVELS.unpack_from(found)
    return Light(
        primaries=primaries,
        luminance=luminance,
        levels=levels if levels and any(levels) else None,
        dynamic=tuple(words for name, words in _DYNAMIC.items() if name in beside),
    )
