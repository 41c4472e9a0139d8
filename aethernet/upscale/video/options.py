"""What can be asked of a film's encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType

from aethernet.errors import UsageError

__all__ = ["ENCODER_PRESETS", "EncoderPreset", "FilmOptions", "parse_time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderPreset:
    """One encoder with settings that keep what the network made."""

    codec: str
    """FFmpeg's name of the encoder."""
    options: Mapping[str, str]
    formats: Mapping[int, str]
    """Bits per channel -> pixel format."""
    odd_formats: Mapping[int, str] = field(default_factory=dict)
    """The same for pictures whose width or height is odd, which halved chroma cannot have."""


_HALVED = {10: "yuv420p10le", 8: "yuv420p"}
_FULL = {10: "yuv444p10le", 8: "yuv444p"}
_RGB = {10: "gbrp10le", 8: "bgr0"}

ENCODER_PRESETS: Mapping[str, EncoderPreset] = MappingProxyType(
    {
        "x264": EncoderPreset(
            codec="libx264", options={"preset": "medium", "crf": "16"}, formats=_HALVED, odd_formats=_FULL
        ),
        "x265": EncoderPreset(
            codec="libx265",
            options={"preset": "medium", "crf": "18", "x265-params": "log-level=error"},
            formats=_HALVED,
            odd_formats=_FULL,
        ),
        "svtav1": EncoderPreset(codec="libsvtav1", options={"preset": "6", "crf": "22"}, formats=_HALVED),
        "ffv1": EncoderPreset(
            codec="ffv1", options={"level": "3", "g": "1", "slicecrc": "1"}, formats=_RGB, odd_formats=_RGB
        ),
        "h264-nvenc": EncoderPreset(
            codec="h264_nvenc", options={"preset": "p6", "rc": "constqp", "qp": "18"}, formats={8: "yuv420p"}
        ),
        "hevc-nvenc": EncoderPreset(
            codec="hevc_nvenc",
            options={"preset": "p6", "rc": "constqp", "qp": "20"},
            formats={10: "p010le", 8: "yuv420p"},
        ),
        "av1-nvenc": EncoderPreset(
            codec="av1_nvenc",
            options={"preset": "p6", "rc": "constqp", "qp": "80"},
            formats={10: "p010le", 8: "yuv420p"},
        ),
    }
)
"""ffv1 is without loss: RGB at the full number of bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmOptions:
    """How a film is to be made."""

    preset: str = "x265"
    """One of :data:`ENCODER_PRESETS`."""
    options: tuple[str, ...] = ()
    """``key=value`` for the encoder, over the preset's own."""
    bits: int = 10
    """Per channel."""
    start: str | None = None
    """Time to begin at, as :func:`parse_time` reads it; None is the beginning."""
    end: str | None = None
    """Time to stop before; None is the end."""
    resume: bool = False
    """Go on with an interrupted run."""
    segment_seconds: float = 10.0
    """Length of a segment; a key frame starts each."""

    def __post_init__(self) -> None:
        if self.preset not in ENCODER_PRESETS:
            raise UsageError(f"expected a preset of {', '.join(ENCODER_PRESETS)}, found '{self.preset}'")
        if self.bits not in ENCODER_PRESETS[self.preset].formats:
            offered = " or ".join(str(bits) for bits in ENCODER_PRESETS[self.preset].formats)
            raise UsageError(f"expected {offered} bits for {self.preset}, found {self.bits}")
        for option in self.options:
            if not re.fullmatch(r"[^=\s]+=.+", option):
                raise UsageError(f"expected encoder options such as crf=18, found '{option}'")
        if self.segment_seconds <= 0:
            raise UsageError(f"expected segments longer than nothing, found {self.segment_seconds} seconds")
        start, end = self.interval
        if end is not None and end <= start:
            raise UsageError(f"expected an end after the start, found {self.start or 0} to {self.end}")

    @property
    def interval(self) -> tuple[Fraction, Fraction | None]:
        """Seconds from the film's beginning."""
        start = parse_time(self.start) if self.start is not None else Fraction(0)
        return start, parse_time(self.end) if self.end is not None else None

    @property
    def encoder_options(self) -> dict[str, str]:
        """What the encoder is given."""
        own = dict(option.split("=", 1) for option in self.options)
        return {**ENCODER_PRESETS[self.preset].options, **own}

    def pixel_format(self, width: int, height: int) -> str:
        """For a picture of this size.

        Raises:
            UsageError: The encoder cannot have it.
        """
        preset = ENCODER_PRESETS[self.preset]
        if width % 2 == 0 and height % 2 == 0:
            return preset.formats[self.bits]
        if self.bits not in preset.odd_formats:
            raise UsageError(
                f"expected an even width and height for {self.preset}, found {width}x{height}",
                hint="take --preset x265, x264 or ffv1",
            )
        return preset.odd_formats[self.bits]


def parse_time(text: str) -> Fraction:
    """``90.5``, ``1:30.5`` or ``0:01:30.5`` in seconds.

    Raises:
        UsageError: Something else.
    """
    found = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", text.strip())
    if found is None:
        raise UsageError(f"expected a time such as 90.5 or 1:30, found '{text}'")
    hours, minutes, seconds = found.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + Fraction(seconds)
