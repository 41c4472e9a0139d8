"""Image files whose values are floats without bounds: OpenEXR, Radiance, Portable Float Map; and PAM, Netpbm's latest.

What such a file calls white is for the user to say: :func:`within` maps the stated range to [0, 1].
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aethernet.errors import ImageError, UsageError
from aethernet.upscale.libraries import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Limits = tuple[float, float] | Literal["auto"] | None

__all__ = ["Floats", "decoded", "encoded", "linear", "parse_range", "read_floats", "within"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Floats:
    """What such a file holds."""

    pixels: NDArray[Any]
    """[H, W, 1 to 4], float32 as stored; colours not multiplied by alpha."""
    format: str
    linear: bool
    """Whether values are amounts of light, as OpenEXR and Radiance have it."""


def read_floats(path: Path, largest: int) -> Floats | None:
    """Decode the file, if it is of this kind by its first bytes; None otherwise.

    Args:
        path: The file.
        largest: Pixels beyond which it is refused.

    Raises:
        ImageError: It is too large.
        MissingDependencyError: The library for it is not installed.
        ValueError: It is damaged; other exceptions of the libraries mean the same.
    """
    with open(path, "rb") as file:
        head = file.read(16)
    if head.startswith(b"\x76\x2f\x31\x01"):
        found = Floats(pixels=_openexr(path, largest), format="EXR", linear=True)
    elif head.startswith((b"#?RADIANCE", b"#?RGBE")):
        pixels = np.asarray(require("imagecodecs").rgbe_decode(path.read_bytes()), dtype=np.float32)
        found = Floats(pixels=pixels, format="RADIANCE", linear=True)
    elif re.match(rb"P[Ff]\s", head):
        found = Floats(pixels=_float_map(path.read_bytes()), format="PFM", linear=False)
    else:
        return None
    height, width = found.pixels.shape[:2]
    if height * width > largest:
        raise ImageError(f"expected at most {largest // 10**6} megapixels, found {width}x{height}: {path}")
    return found


def _openexr(path: Path, largest: int) -> NDArray[np.float32]:
    """By FFmpeg's decoder: planes of floats, alpha multiplied into the colours."""
    av = require("av", "video")
    with av.open(str(path), format="exr_pipe") as container:
        stream = container.streams.video[0]
        if stream.width * stream.height > largest:
            raise ImageError(f"expected at most {largest // 10**6} megapixels, found {stream.width}x{stream.height}")
        frame = next(container.decode(stream))
    name = frame.format.name
    names = {"gbrpf32le": 3, "gbrapf32le": 4, "grayf32le": 1, "gbrpf16le": 3, "gbrapf16le": 4, "grayf16le": 1}
    if name not in names:
        raise ValueError(f"expected floats, found {name}")
    kind = np.dtype("<f4" if "32" in name else "<f2")
    planes = [
        np.frombuffer(plane, kind)
        .reshape(plane.height, plane.line_size // kind.itemsize)[:, : plane.width]
        .astype(np.float32)
        for plane in frame.planes
    ]
    order = {1: (0,), 3: (2, 0, 1), 4: (2, 0, 1, 3)}[names[name]]  # planes are green, blue, red
    pixels = np.stack([planes[index] for index in order], axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:]
        pixels[..., :3] = np.divide(pixels[..., :3], alpha, out=pixels[..., :3].copy(), where=alpha > 0)
    return pixels


_FLOAT_MAP = re.compile(rb"(P[Ff])\s+(\d+)\s+(\d+)\s+(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s")


def _float_map(data: bytes) -> NDArray[np.float32]:
    """Rows from bottom to top; a negative scale means that the lower byte comes first."""
    found = _FLOAT_MAP.match(data)
    if found is None:
        raise ValueError("expected the header of a float map")
    channels, width, height = 3 if found[1] == b"PF" else 1, int(found[2]), int(found[3])
    count = width * height * channels
    if len(data) - found.end() < 4 * count:
        raise ValueError(f"expected {count} values, found {(len(data) - found.end()) // 4}")
    values = np.frombuffer(data, "<f4" if found[4].startswith(b"-") else ">f4", count, found.end())
    return values.reshape(height, width, channels)[::-1].astype(np.float32)


# --- the range -------------------------------------------------------------------------------------------------------


def parse_range(text: str) -> Limits:
    """``0:1``, ``-5:200.5`` or ``auto``.

    Raises:
        UsageError: Something else.
    """
    if text == "auto":
        return "auto"
    number = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
    found = re.fullmatch(rf"({number}):({number})", text.strip())
    if found is None or not float(found[1]) < float(found[2]):
        raise UsageError(f"expected a range such as 0:1, LOW below HIGH, or auto, found '{text}'")
    return float(found[1]), float(found[2])


def within(
    colour: NDArray[Any], limits: Limits, path: Path
) -> tuple[NDArray[np.float32], tuple[float, float], list[str]]:
    """Values of a stated range as shares of it.

    Args:
        colour: [H, W, C] of any numbers.
        limits: What is black and what is white; ``auto`` takes the file's own extremes, None 0 and 1, which no value
            may leave.
        path: Of the file, for messages.

    Returns:
        [H, W, C] in [0, 1]; the range; what a user should be told.

    Raises:
        ImageError: Nothing was stated, and values leave 0 to 1; or no value is a number.
    """
    values = colour.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError(f"expected numbers, found none in {path}")
    lowest, highest = float(values[finite].min()), float(values[finite].max())
    found = f"{lowest:g} to {highest:g}" + ("" if finite.all() else f" and {int((~finite).sum())} that are no numbers")
    if limits is None and (lowest < 0 or highest > 1 or not finite.all()):
        raise ImageError(
            f"expected values from 0 to 1 in a file without a range of its own, found {found}: {path}",
            hint="say what is black and what is white with --range LOW:HIGH, or take the file's own with --range auto",
        )
    low, high = (0.0, 1.0) if limits is None else (lowest, highest) if limits == "auto" else limits
    high = high if high > low else low + 1
    notes = [f"{low:g} was taken for black, {high:g} for white"]
    if cut := int(((values < low) | (values > high)).sum()):
        notes.append(f"{cut} of {values.size} values lie outside and were cut off: the file has {found}")
    if missing := int(np.isnan(values).sum()):
        notes.append(f"{missing} values that are no numbers became black")
    shares = (np.nan_to_num(values, nan=low, posinf=high, neginf=low).clip(low, high) - low) / (high - low)
    return shares.astype(np.float32), (low, high), notes


def linear(shares: NDArray[Any]) -> NDArray[np.float32]:
    """Light of values coded as sRGB (IEC 61966-2-1)."""
    values = shares.astype(np.float64)
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


def encoded(light: NDArray[Any]) -> NDArray[np.float32]:
    """Light coded as sRGB, which is what networks were trained with."""
    values = light.astype(np.float64)
    coded = np.where(values <= 0.0031308, values * 12.92, 1.055 * np.maximum(values, 0) ** (1 / 2.4) - 0.055)
    return coded.astype(np.float32)


def decoded(shares: NDArray[Any], limits: tuple[float, float], *, light: bool) -> NDArray[np.float32]:
    """The other way: shares of the range as the file's own numbers."""
    low, high = limits
    return ((linear(shares) if light else shares.astype(np.float64)) * (high - low) + low).astype(np.float32)
