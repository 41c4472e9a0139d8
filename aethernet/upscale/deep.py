"""Image files whose channels have more than 8 bits, which Pillow would cut down; TIFF has a module of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.upscale.libraries import require

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["deep_pixels", "pam_pixels"]


def deep_pixels(path: Path, image: Image) -> NDArray[Any] | None:
    """[H, W, C] uint16 over the whole range, of a file with more than 8 bits per channel; None for all others."""
    if image.format == "PNG":
        return _png(path, transparent="transparency" in image.info)
    readers = {"PPM": _pnm, "JPEG2000": _jpeg2000, "AVIF": _avif}
    reader = readers.get(image.format or "")
    return None if reader is None else reader(path)


def _png(path: Path, *, transparent: bool) -> NDArray[Any] | None:
    with open(path, "rb") as file:
        header = file.read(26)
    if header[24] != 16 or (header[25] == 0 and not transparent):
        return None
    return _three_axes(require("imagecodecs").png_decode(path.read_bytes()))


def pam_pixels(path: Path, largest: int) -> NDArray[Any] | None:
    """[H, W, 1 to 4], uint8 or uint16 over the whole range, of Netpbm's PAM, which Pillow does not read.

    Raises:
        ValueError: It is damaged, or too large.
    """
    with open(path, "rb") as file:
        if file.read(3) != b"P7\n":
            return None
        head = file.read(4096)
    end = head.find(b"ENDHDR\n") + 7
    fields = {name: int(number) for name, number in _PAM_FIELD.findall(head[:end])}
    if end < 7 or len(fields) < 4:
        raise ValueError("expected WIDTH, HEIGHT, DEPTH and MAXVAL in the header")
    width, height, channels, top = (fields[name] for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    if not (0 < top <= 65535 and 1 <= channels <= 4 and 0 < width * height <= largest):
        raise ValueError(f"expected 1 to 4 channels of at most 16 bits, found {width}x{height}x{channels} up to {top}")
    kind, count = (">u2" if top > 255 else "u1"), width * height * channels
    data = path.read_bytes()[3 + end :]
    if len(data) < count * np.dtype(kind).itemsize:
        raise ValueError(f"expected {count} samples, found {len(data) // np.dtype(kind).itemsize}")
    samples = np.frombuffer(data, kind, count).reshape(height, width, channels)
    full = 65535 if top > 255 else 255
    widened: NDArray[Any] = np.rint(samples.clip(0, top) * (full / top)).astype(np.uint16 if top > 255 else np.uint8)
    return widened


_PNM_HEADER = re.compile(rb"(P[2356])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:#[^\n]*)?\s")
_PAM_FIELD = re.compile(rb"^(WIDTH|HEIGHT|DEPTH|MAXVAL)\s+(\d+)\s*$", re.MULTILINE)


def _pnm(path: Path) -> NDArray[Any] | None:
    """Netpbm's formats; samples of more than 255 levels have two bytes, the first the higher."""
    data = path.read_bytes()
    plain = False
    if found := _PNM_HEADER.match(data):
        width, height, top = (int(found[index]) for index in (2, 3, 4))
        channels, start = 3 if found[1] in (b"P3", b"P6") else 1, found.end()
        plain = found[1] in (b"P2", b"P3")
    elif data.startswith(b"P7"):
        start = data.find(b"ENDHDR\n") + 7
        fields = {name: int(number) for name, number in _PAM_FIELD.findall(data[:start])}
        if start < 7 or len(fields) < 4:
            return None
        width, height, channels, top = (fields[name] for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    else:
        return None
    if not 255 < top <= 65535:
        return None
    count = width * height * channels
    if plain:
        text = re.sub(rb"#[^\n]*", b"", data[start:])
        samples = np.array(text.split()[:count], dtype=np.float64)
    else:
        samples = np.frombuffer(data, ">u2", offset=start, count=min(count, (len(data) - start) // 2)).astype(
            np.float64
        )
    if len(samples) < count:
        raise ValueError(f"expected {count} samples, found {len(samples)}")
    return np.rint(samples.reshape(height, width, channels).clip(0, top) * (65535 / top)).astype(np.uint16)


def _jpeg2000(path: Path) -> NDArray[Any] | None:
    data = path.read_bytes()
    start = data.find(b"\xff\x4f\xff\x51")  # SOC, SIZ: ISO/IEC 15444-1, A.5.1
    if start < 0:
        return None
    count = int.from_bytes(data[start + 40 : start + 42], "big")
    depths = [data[start + 42 + 3 * index] for index in range(count)]
    if not 1 <= count <= 4 or len(set(depths)) != 1 or not 7 < depths[0] < 16:  # signed ones have the highest bit
        return None
    colour = re.search(rb"colr\x01..(....)", data[:start], re.DOTALL)
    if colour is not None and int.from_bytes(colour[1], "big") not in (16, 17):
        return None
    decoded = _three_axes(require("imagecodecs").jpeg2k_decode(data))
    top = 2 ** (depths[0] + 1) - 1
    widened: NDArray[Any] = np.rint(decoded.astype(np.float64) * (65535 / top)).astype(np.uint16)
    return widened


def _avif(path: Path) -> NDArray[Any] | None:
    with open(path, "rb") as file:
        head = file.read(4096)
    # ISO/IEC 23008-12, 6.5.6: pixi = version and flags, count, bits of each channel.
    found = re.search(rb"pixi\0\0\0\0.(.)", head, re.DOTALL)
    if found is None or (depth := found[1][0]) <= 8:
        return None
    decoded = _three_axes(require("imagecodecs").avif_decode(path.read_bytes()))
    widened: NDArray[Any] = np.rint(decoded * (65535 / (2**depth - 1))).astype(np.uint16)
    return widened


def _three_axes(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[..., None] if pixels.ndim == 2 else pixels
