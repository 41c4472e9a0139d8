"""Between a video's values and RGB, rounded to nearest.

FFmpeg's scaler truncates on this way (measured: RGB 0.47 of 255 levels too dark, luma 1.6 of 1023 levels too bright),
and takes chroma it is not told about to lie in the middle. So it only unpacks formats and enlarges chroma here; the
matrices are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.upscale.video.libraries import library
from aethernet.upscale.video.source import Colours

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["to_frame", "to_rgb", "to_rgba"]

# ITU-T H.273, table 4: matrix -> weights of red and blue in luma.
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}


def to_rgb(frame: Any, colours: Colours) -> NDArray[np.uint16]:
    """[H, W, 3] of 16 bits, full range: more than the video has, so that nothing is rounded twice."""
    bits = _depth(frame.format)
    if colours.matrix == 0:
        if bits == 8:
            eight: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
            return eight.astype(np.uint16) * np.uint16(257)
        # With its alpha, if it has one: FFmpeg loses pixels on the way from gbrap to gbrp of the same depth (measured).
        alpha = any(component.is_alpha for component in frame.format.components)
        bits = max(bits, 10) if alpha else bits
        planes = _planes(frame.reformat(format=f"gbrap{bits}le" if alpha else f"gbrp{bits}le"))[:3]
        green, blue, red = (np.rint(plane * np.float32(65535 / (2**bits - 1))) for plane in planes)
        sixteen: NDArray[np.uint16] = np.stack([red, green, blue], axis=2).astype(np.uint16)
        return sixteen
    flags = library().video.reformatter.Interpolation
    # Same matrix and range on both sides: only chroma changes its size.
    same = {"src_color_range": 2, "dst_color_range": 2}
    name = "yuv444p" if bits == 8 else f"yuv444p{bits}le"
    planes = _planes(frame.reformat(format=name, interpolation=flags.BICUBIC | flags.ACCURATE_RND, **same))
    (black, luma_range), (zero, chroma_range) = _ranges(bits, colours.full_range)
    y = (planes[0] - np.float32(black)) / np.float32(luma_range)
    cb, cr = ((plane - np.float32(zero)) / np.float32(chroma_range) for plane in planes[1:])
    kr, kb = (np.float32(weight) for weight in _WEIGHTS[colours.matrix])
    red = y + 2 * (1 - kr) * cr
    blue = y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    rgb = np.stack([red, green, blue], axis=2)
    levels: NDArray[np.uint16] = np.rint(np.clip(rgb, 0, 1) * np.float32(65535)).astype(np.uint16)
    return levels


def to_rgba(frame: Any, colours: Colours) -> NDArray[np.uint16]:
    """[H, W, 4] of 16 bits: :func:`to_rgb`, and how opaque each pixel is."""
    if frame.format.has_palette or (frame.format.is_rgb and _depth(frame.format) == 8):
        alpha = frame.to_ndarray(format="rgba")[..., 3].astype(np.uint16) * np.uint16(257)
    else:
        # In its own depth: between depths FFmpeg shifts, and what is opaque would not be quite so any more.
        depths = (10, 12, 14, 16) if frame.format.is_rgb else (8, 9, 10, 12, 16)
        bits = next(bits for bits in depths if bits >= _depth(frame.format))
        planar = "gbrap" if frame.format.is_rgb else "yuva444p"
        name = planar if bits == 8 else f"{planar}{bits}le"
        same = {"src_color_range": 2, "dst_color_range": 2}
        plane = _planes(frame.reformat(format=name, **same))[3]
        alpha = np.rint(plane * np.float32(65535 / (2**bits - 1)))
    return np.concatenate([to_rgb(frame, colours), alpha.astype(np.uint16)[..., None]], axis=2)


_DEPTHS = (8, 9, 10, 12, 14, 16)
"""Bits for which there are planar formats of RGB and of full chroma."""


def _depth(pixels: Any) -> int:
    """The smallest depth that holds every channel of a pixel format; floats and integers beyond it become 16 bits."""
    most = max((int(component.bits) for component in pixels.components), default=8)
    return next((depth for depth in _DEPTHS if depth >= most), _DEPTHS[-1])


def to_frame(rgb: NDArray[np.uint16], pixel_format: str, colours: Colours) -> Any:
    """[H, W, 3 or 4] of 16 bits as a frame of an encoder's pixel format, rounded; halved chroma lies left, as in H.264.

    Args:
        rgb: Full range.
        pixel_format: ``yuv4xxp``, ``yuv4xxp10le`` or ``p010le``; ``gbrp10le`` or ``bgr0`` for RGB. With alpha
            ``yuva4xxp``, ``yuva4xxp10le``, ``gbrap10le`` or ``bgra``.
        colours: Matrix (BT.709 stands for RGB) and range.
    """
    av = library()
    if pixel_format in ("bgr0", "bgra"):
        eight = np.rint(rgb * np.float32(1 / 257)).astype(np.uint8)
        return av.VideoFrame.from_ndarray(eight, format="rgba" if pixel_format == "bgra" else "rgb24").reformat(
            format=pixel_format
        )
    height, width, _ = rgb.shape
    if pixel_format in ("gbrp10le", "gbrap10le"):
        order = (1, 2, 0, 3) if pixel_format == "gbrap10le" else (1, 2, 0)
        planes = [np.rint(rgb[..., channel] * np.float32(1023 / 65535)) for channel in order]
        return _filled(av.VideoFrame(width, height, pixel_format), planes)
    if pixel_format == "p010le":
        return to_frame(rgb, "yuv420p10le", colours).reformat(format=pixel_format)
    bits = 10 if pixel_format.endswith("10le") else 8
    kr, kb = (np.float32(weight) for weight in _WEIGHTS[colours.matrix or 1])
    red, green, blue = (rgb[..., channel] * np.float32(1 / 65535) for channel in range(3))
    y = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
    if "420" in pixel_format:
        chroma = _halved(chroma[0]), _halved(chroma[1])
    (black, luma_range), (zero, chroma_range) = _ranges(bits, colours.full_range)
    top = 2**bits - 1
    planes = [np.rint(black + luma_range * y), *(np.rint(zero + chroma_range * part) for part in chroma)]
    if "yuva" in pixel_format:
        planes.append(np.rint(rgb[..., 3] * np.float32(top / 65535)))
    return _filled(av.VideoFrame(width, height, pixel_format), [plane.clip(0, top) for plane in planes])


def _ranges(bits: int, full: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """Offset and extent of luma, then of chroma (H.273, equations 20 to 31)."""
    unit = 2 ** (bits - 8)
    if full:
        return (0, 2**bits - 1), (128 * unit, 2**bits - 1)
    return (16 * unit, 219 * unit), (128 * unit, 224 * unit)


def _halved(chroma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half the size; samples lie on even columns and between rows."""
    left = np.concatenate([chroma[:, :1], chroma[:, 1:-1:2]], axis=1)
    columns = (left + 2 * chroma[:, ::2] + chroma[:, 1::2]) * np.float32(0.25)
    halved: NDArray[np.float32] = (columns[::2] + columns[1::2]) * np.float32(0.5)
    return halved


def _planes(frame: Any) -> list[NDArray[np.float32]]:
    """Every plane as [h, w] floats."""
    found = []
    for plane in frame.planes:
        width = plane.width
        dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
        rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        found.append(rows[:, :width].astype(np.float32))
    return found


def _filled(frame: Any, planes: list[NDArray[np.float32]]) -> Any:
    for plane, values in zip(frame.planes, planes, strict=True):
        dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
        np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width] = values
    return frame
