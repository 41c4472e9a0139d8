"""What can be asked of a video's encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType

from aethernet.errors import UsageError
from aethernet.upscale.video.hdr import Light

__all__ = ["DEINTERLACING", "ENCODER_PRESETS", "EncoderPreset", "VideoOptions", "parse_time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderPreset:
    """One encoder with settings that keep what the network made."""

    codec: str
    """FFmpeg's name of the encoder."""
    options: Mapping[str, str]
    formats: Mapping[int, str]
    """Bits per channel -> pixel format."""
    odd_formats: Mapping[int, str] = field(default_factory=dict)
    """The same for images whose width or height is odd, which halved chroma cannot have."""
    alpha_formats: Mapping[int, str] = field(default_factory=dict)
    """The same for images with transparency."""
    container: str = "nut"
    """FFmpeg's name of what segments are kept in."""
    light: Callable[[Light], tuple[str, list[str]]] | None = None
    """The option that takes what an HDR video says about its display, and what it is set to."""


_HALVED = {10: "yuv420p10le", 8: "yuv420p"}
_FULL = {10: "yuv444p10le", 8: "yuv444p"}
_RGB = {10: "gbrp10le", 8: "bgr0"}

ENCODER_PRESETS: Mapping[str, EncoderPreset] = MappingProxyType(
    {
        "x264": EncoderPreset(
            codec="libx264",
            options={"preset": "medium", "crf": "16"},
            formats=_HALVED,
            odd_formats=_FULL,
            light=lambda light: ("x264-params", light.x26x("mastering-display", "cll")),
        ),
        "x265": EncoderPreset(
            codec="libx265",
            options={"preset": "medium", "crf": "18", "x265-params": "log-level=error"},
            formats=_HALVED,
            odd_formats=_FULL,
            light=lambda light: ("x265-params", light.x26x("master-display", "max-cll")),
        ),
        "svtav1": EncoderPreset(
            codec="libsvtav1",
            options={"preset": "6", "crf": "22"},
            formats=_HALVED,
            light=lambda light: ("svtav1-params", light.svtav1()),
        ),
        "vp9": EncoderPreset(
            codec="libvpx-vp9",
            options={"crf": "18", "b": "0", "cpu-used": "4", "row-mt": "1"},
            formats={8: "yuv420p"},
            odd_formats={8: "yuv444p"},
            alpha_formats={8: "yuva420p"},
            container="matroska",
        ),
        "prores": EncoderPreset(
            codec="prores_ks",
            options={"profile": "4444"},
            formats={10: "yuv444p10le"},
            odd_formats={10: "yuv444p10le"},
            alpha_formats={10: "yuva444p10le"},
            container="matroska",
        ),
        "ffv1": EncoderPreset(
            codec="ffv1",
            options={"level": "3", "g": "1", "slicecrc": "1"},
            formats=_RGB,
            odd_formats=_RGB,
            alpha_formats={10: "gbrap10le", 8: "bgra"},
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
"""ffv1 is without loss: RGB at the full number of bits. ffv1, prores and vp9 keep transparency."""

DEINTERLACING = ("auto", "bwdif", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """How a video is to be made."""

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
    deinterlace: str = "auto"
    """``auto`` turns images that are marked as interlaced into whole ones with FFmpeg's bwdif, ``bwdif`` all, ``off``
    none."""
    drop_alpha: bool = False
    """Leave transparency out where the encoder cannot hold it."""

    def __post_init__(self) -> None:
        if self.preset not in ENCODER_PRESETS:
            raise UsageError(f"expected a preset of {', '.join(ENCODER_PRESETS)}, found '{self.preset}'")
        if self.bits not in ENCODER_PRESETS[self.preset].formats:
            offered = " or ".join(str(bits) for bits in ENCODER_PRESETS[self.preset].formats)
            raise UsageError(f"expected {offered} bits for {self.preset}, found {self.bits}")
        if self.deinterlace not in DEINTERLACING:
            raise UsageError(f"expected --deinterlace {', '.join(DEINTERLACING)}, found '{self.deinterlace}'")
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
        """Seconds from the video's beginning."""
        start = parse_time(self.start) if self.start is not None else Fraction(0)
        return start, parse_time(self.end) if self.end is not None else None

    def encoder_options(self, light: Light) -> dict[str, str]:
        """What the encoder is given for a video with this ``light``."""
        preset = ENCODER_PRESETS[self.preset]
        given = {**preset.options, **dict(option.split("=", 1) for option in self.options)}
        if preset.light and light:
            name, told = preset.light(light)
            given[name] = ":".join([*told, *([given[name]] if name in given else [])])
        return given

    def pixel_format(self, width: int, height: int, *, alpha: bool = False) -> str:
        """For an image of this size.

        Args:
            width: Pixels.
            height: Pixels.
            alpha: Whether pixels may be transparent, and shall stay so.

        Raises:
            UsageError: The encoder cannot have it.
        """
        preset = ENCODER_PRESETS[self.preset]
        if alpha and self.bits in preset.alpha_formats:
            return preset.alpha_formats[self.bits]
        if alpha and not self.drop_alpha:
            able = [name for name, one in ENCODER_PRESETS.items() if one.alpha_formats]
            raise UsageError(
                f"expected an encoder that holds transparency, as this video has it, found {self.preset}",
                hint=f"take --preset {', '.join(able)} (vp9 with --bits 8), or leave it out with --drop-alpha",
            )
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
