"""Arrays into image files, band by band where the format allows it (PNG, TIFF)."""

from __future__ import annotations

import errno
import io
import itertools
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from aethernet.errors import ImageError, UsageError
from aethernet.upscale.animation import write_animation
from aethernet.upscale.floats import decoded
from aethernet.upscale.libraries import require
from aethernet.upscale.metadata import Metadata, resized_exif, resized_xmp, shortened_exif
from aethernet.upscale.profiles import grey_curve, rgb_profile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aethernet.upscale.reading import Still

__all__ = ["FORMATS", "FileFormat", "format_of", "write_image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """What a format can hold."""

    name: str
    suffixes: tuple[str, ...]
    longest: int
    """Largest width and height."""
    alpha: bool = True
    deep: bool = False
    """16 bits per channel."""
    cmyk: bool = False
    quality: int | None = None
    """Quality used unless another is asked for; None where there is no loss."""


FORMATS: Mapping[str, FileFormat] = MappingProxyType(
    {
        one.name: one
        for one in (
            FileFormat(name="png", suffixes=(".png",), longest=2**31 - 1, deep=True),
            FileFormat(
                name="jpg",
                suffixes=(".jpg", ".jpeg", ".jpe", ".jfif"),
                longest=65_500,
                alpha=False,
                cmyk=True,
                quality=95,
            ),
            FileFormat(name="webp", suffixes=(".webp",), longest=16_383, quality=90),
            FileFormat(name="tif", suffixes=(".tif", ".tiff"), longest=2**31 - 1, deep=True, cmyk=True),
            FileFormat(name="avif", suffixes=(".avif",), longest=65_536, quality=80),
            FileFormat(name="gif", suffixes=(".gif",), longest=65_535),
        )
    }
)
"""Formats that can be written, by the name ``--format`` takes."""


def format_of(path: Path) -> FileFormat:
    """The format a file name asks for.

    Raises:
        UsageError: None that can be written.
    """
    for one in FORMATS.values():
        if path.suffix.lower() in one.suffixes:
            return one
    known = ", ".join(suffix for one in FORMATS.values() for suffix in one.suffixes)
    raise UsageError(f"expected an output called {known}, found {path.name}")


def require_fit(target: FileFormat, width: int, height: int) -> None:
    """Refuse an image that the format cannot hold, before any work is done.

    Raises:
        ImageError: It is too large.
    """
    if max(width, height) > target.longest:
        raise ImageError(
            f"expected a result of at most {target.longest:,} pixels a side, which is what {target.name} holds, found "
            f"{width}x{height}",
            hint="write png or tif",
        )


def write_image(
    path: Path,
    target: FileFormat,
    still: Still,
    bands: Iterator[NDArray[Any]],
    size: tuple[int, int],
    quality: int | None = None,
    *,
    page: int = 0,
) -> list[str]:
    """Write the enlarged ``still``.

    Args:
        path: Where to; the caller makes this atomic.
        target: Format; must take ``still``'s kind (:meth:`Still.as_rgb` for those that have no CMYK).
        still: The image that was enlarged: its kind and metadata are used, not its pixels.
        bands: [rows, W, channels] of 8 or 16 bits, top to bottom.
        size: Width and height of the result.
        quality: 1 to 100; None takes the format's own.
        page: Of a TIFF: those before it are in the file already.

    Returns:
        What a user should be told.
    """
    metadata, notes = _fitting(still, target, size)
    if still.colour.dtype.kind == "f" and target.name == "tif" and (still.limits != (0, 1) or still.linear):
        bands = (_own_numbers(band, still) for band in bands)
    if still.colour.dtype.kind == "f" and target.name != "tif":
        bands = (np.rint(band * np.float32(65535)).astype(np.uint16) for band in bands)
        if target.deep:
            notes.append(f"{target.name} holds 16 bits per channel, the input had floats")
    if still.colour.dtype != np.uint8 and not target.deep:
        bands = (_as_8_bits(band) for band in bands)
        had = "16" if still.colour.dtype == np.uint16 else "floats"
        notes.append(f"{target.name} holds 8 bits per channel, the input had {had}")
    if still.has_alpha and not target.alpha:
        bands = (_on_white(band) for band in bands)
        if still.plane is not None and (still.plane != _top(still.plane.dtype)).any():
            notes.append(f"{target.name} has no transparency: the image was put on white")
    if target.name == "png":
        _write_png(path, bands, size, metadata)
    elif target.name == "tif":
        notes += _write_tiff(path, bands, size, metadata, still, page)
    elif target.name == "gif":
        whole = _coloured(np.concatenate(list(bands)))
        notes += write_animation(path, target.name, [whole], [Fraction(0)], plays=1, metadata=metadata)
    else:
        notes += _write_whole(path, target, np.concatenate(list(bands)), still, metadata, quality)
    return notes


def _fitting(still: Still, target: FileFormat, size: tuple[int, int]) -> tuple[Metadata, list[str]]:
    """What the format can say beside the pixels, and notes on what it cannot."""
    metadata, notes = still.metadata, []
    if metadata.xmp:
        metadata = replace(metadata, xmp=resized_xmp(metadata.xmp, *size))
    if metadata.icc and still.kind == "grey" and target.name in ("webp", "avif"):  # their pixels are RGB
        curve = grey_curve(metadata.icc)
        if curve is None:
            notes.append(f"{target.name} has no grey: the grey profile, which has no tone curve, was dropped")
        metadata = replace(metadata, icc=None if curve is None else rgb_profile(curve))
    lost = [name for name, _ in metadata.text if name != "Comment" or target.name not in ("jpg", "gif")]
    if lost and target.name != "png":
        notes.append(f"{target.name} does not hold these texts, which were dropped: {', '.join(lost)}")
    if metadata.cicp and target.name not in ("png", "avif"):
        notes.append(
            f"{target.name} cannot say that the colours have primaries {metadata.cicp[0]} and transfer "
            f"{metadata.cicp[1]} of H.273: the tag was dropped"
        )
    if target.name != "png" and any(name in (b"mDCV", b"cLLI") for name, _ in metadata.png_colour):
        notes.append(f"{target.name} cannot say how bright the mastering display was: the tags were dropped")
    return metadata, notes


def _top(dtype: np.dtype[Any]) -> float:
    return 1 if dtype.kind == "f" else int(np.iinfo(dtype).max)


def _own_numbers(band: NDArray[Any], still: Still) -> NDArray[np.float32]:
    """Shares of the range as the file's own numbers; alpha has no other than 0 to 1."""
    colours = still.colour.shape[2]
    colour = decoded(band[..., :colours], still.limits, light=still.linear)
    return np.concatenate([colour, band[..., colours:]], axis=2)


def _coloured(pixels: NDArray[Any]) -> NDArray[Any]:
    """[H, W, 3 or 4] of [H, W, 1 to 4]."""
    if pixels.shape[2] > 2:
        return pixels
    return np.concatenate([pixels[..., :1].repeat(3, axis=2), pixels[..., 1:]], axis=2)


def _as_8_bits(band: NDArray[Any]) -> NDArray[np.uint8]:
    return np.rint(band / np.float32(257)).astype(np.uint8)


def _on_white(band: NDArray[Any]) -> NDArray[Any]:
    top = np.float32(np.iinfo(band.dtype).max)
    alpha = band[..., -1:] / top
    return np.rint(band[..., :-1] * alpha + top * (1 - alpha)).astype(band.dtype)


# --- PNG -------------------------------------------------------------------------------------------------------------

_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_PNG_LEVEL = 5


def _write_png(path: Path, bands: Iterator[NDArray[Any]], size: tuple[int, int], metadata: Metadata) -> None:
    """PNG by its specification (ISO/IEC 15948), so that rows can be written as they come."""
    first = next(bands)
    channels, depth = first.shape[2], first.dtype.itemsize * 8
    packer = zlib.compressobj(_PNG_LEVEL, strategy=zlib.Z_FILTERED)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", *size, depth, _PNG_COLOUR_TYPES[channels], 0, 0, 0))
        for name, data in _png_colour(metadata):
            _chunk(file, name, data)
        if metadata.dpi:
            _chunk(file, b"pHYs", struct.pack(">IIB", *(round(one / 0.0254) for one in metadata.dpi), 1))
        if metadata.xmp:
            _chunk(file, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
        for keyword, words in metadata.text:
            named = keyword.encode("latin-1", "replace")[:79]
            _chunk(file, b"iTXt", named + b"\0\0\0\0\0" + words.encode("utf-8", "replace"))
        if metadata.exif:
            _chunk(file, b"eXIf", resized_exif(metadata.exif, *size).tobytes().removeprefix(b"Exif\0\0"))
        above = np.zeros(size[0] * channels * first.dtype.itemsize, dtype=np.uint8)
        rows_at_a_time = max(1, _FILTERED_AT_A_TIME // len(above))
        for band in itertools.chain([first], bands):
            for start in range(0, len(band), rows_at_a_time):
                some = band[start : start + rows_at_a_time]
                raw = np.ascontiguousarray(some, dtype=band.dtype.newbyteorder(">")).view(np.uint8)
                raw = raw.reshape(len(some), -1)
                if packed := packer.compress(_filtered(raw, above, channels * band.dtype.itemsize)):
                    _chunk(file, b"IDAT", packed)
                above = raw[-1]
        _chunk(file, b"IDAT", packer.flush())
        _chunk(file, b"IEND", b"")


def _png_colour(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    """Chunks that say how values mean colours: as they were where the input was a PNG."""
    yield from metadata.png_colour
    if metadata.icc and not metadata.icc_from_chunks:
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)
    if metadata.cicp and b"cICP" not in dict(metadata.png_colour):
        yield b"cICP", bytes([*metadata.cicp, 0, 1])  # RGB, full range


_FILTERED_AT_A_TIME = 2**17
"""Bytes; filtering makes a dozen arrays of that size, which had better fit into the processor's cache."""


def _chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def _filtered(raw: NDArray[np.uint8], above: NDArray[np.uint8], step: int) -> bytes:
    """Rows with the filter of the smallest sum of absolute differences (the specification's heuristic, 12.8)."""
    up = np.vstack([above, raw[:-1]])
    left = np.zeros_like(raw)
    left[:, step:] = raw[:, :-step]
    corner = np.zeros_like(raw)
    corner[:, step:] = up[:, :-step]
    a, b, c = (part.astype(np.int16) for part in (left, up, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, corner))
    choices = np.stack([raw - left, raw - up, raw - paeth])  # filters 1, 2, 4; the bytes wrap around, as they must
    cost = np.abs(choices.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    best = cost.argmin(axis=0)
    lines = np.empty((len(raw), raw.shape[1] + 1), dtype=np.uint8)
    lines[:, 0] = np.array([1, 2, 4], dtype=np.uint8)[best]
    lines[:, 1:] = choices[best, np.arange(len(raw))]
    return lines.tobytes()


# --- TIFF ------------------------------------------------------------------------------------------------------------

_TILE = 256
_DIRECTORIES = {0x8769: "EXIF", 0x8825: "GPS"}
"""Tags that point to directories of their own. tifffile refuses to write the tags themselves; tags have to be in
order, so the place of each is held by the next number."""
_TEXT_IN_BYTES = range(0x9C9B, 0x9CA0)


def _write_tiff(
    path: Path, bands: Iterator[NDArray[Any]], size: tuple[int, int], metadata: Metadata, still: Still, page: int
) -> list[str]:
    """Tiled, deflated; BigTIFF beyond 4 GB."""
    tifffile = require("tifffile")
    notes = []
    width, height = size
    cmyk = still.kind == "cmyk"
    if cmyk:
        bands = (np.iinfo(band.dtype).max - band for band in bands)
    channels = still.colour.shape[2] + (still.plane is not None)
    big = height * width * channels * still.colour.dtype.itemsize * still.images > 3 * 2**30
    shape = (height, width, channels) if channels > 1 else (height, width)
    extra: list[Any] = []
    details: dict[int, Any] = {}
    if metadata.exif:
        exif = resized_exif(metadata.exif, *size)
        extra = [entry for tag, value in exif.items() if (entry := _descriptive_tag(tag, value))]
        details = {tag: exif[tag] for tag in _DIRECTORIES if exif.get(tag)}
        if details and big:  # its directories are laid out differently
            notes.append(
                f"{' and '.join(_DIRECTORIES[tag] for tag in details)} details do not go into a TIFF of this size"
            )
            details = {}
        extra += [(tag + 1, "I", 1, 0, True) for tag in details]
    if metadata.xmp:
        extra.append((700, "B", len(metadata.xmp), metadata.xmp, True))
    tifffile.imwrite(
        path,
        _tiff_tiles(bands, width, channels),
        append=page > 0,
        bigtiff=big,
        byteorder="<",
        shape=shape,
        dtype=still.colour.dtype,
        tile=(_TILE, _TILE),
        photometric="separated" if cmyk else "rgb" if still.kind == "rgb" else "minisblack",
        extrasamples=["unassalpha"] if still.has_alpha else None,
        compression="zlib",
        predictor=True,
        iccprofile=metadata.icc,
        resolution=metadata.dpi,
        resolutionunit="INCH" if metadata.dpi else None,
        extratags=extra,
        software=False,
        metadata=None,
    )
    for tag, values in details.items():
        _append_directory(path, tag, values, page)
    with tifffile.TiffFile(path) as written:
        last: Any = written.pages[page]
        end = max(map(sum, zip(last.dataoffsets, last.databytecounts, strict=True)))
    if end > path.stat().st_size:
        raise OSError(errno.ENOSPC, "the file ends before its last tile")
    return notes


def _descriptive_tag(tag: int, value: Any) -> tuple[int, str, int, bytes, bool] | None:
    """For tifffile; None for what describes how the input was laid out."""
    if tag in _TEXT_IN_BYTES and isinstance(value, bytes):
        return tag, "B", len(value), value, True
    if not isinstance(value, str | bytes) or not value or tag in (0x0131, 0x0132):
        return None
    text = value.encode("ascii", "replace") if isinstance(value, str) else value
    return tag, "s", 0, text, True


def _tiff_tiles(bands: Iterator[NDArray[Any]], width: int, channels: int) -> Iterator[NDArray[Any]]:
    """Rows of tiles from bands of any height; the last ones are filled up with zeros."""
    for strip in _strips(bands, _TILE):
        padded = np.zeros((_TILE, -(-width // _TILE) * _TILE, channels), dtype=strip.dtype)
        padded[: len(strip), :width] = strip
        for left in range(0, padded.shape[1], _TILE):
            tile = padded[:, left : left + _TILE]
            yield np.ascontiguousarray(tile if channels > 1 else tile[..., 0])


def _strips(bands: Iterator[NDArray[Any]], rows: int) -> Iterator[NDArray[Any]]:
    kept: list[NDArray[Any]] = []
    for band in bands:
        start = 0
        while start < len(band):
            missing = rows - sum(len(part) for part in kept)
            kept.append(band[start : start + missing])
            start += missing
            if sum(len(part) for part in kept) == rows:
                yield np.concatenate(kept)
                kept = []
    if kept:
        yield np.concatenate(kept)


def _append_directory(path: Path, tag: int, values: dict[int, Any], page: int) -> None:
    """Put a directory behind the image and point its tag there; tifffile writes no directories of others."""
    import tifffile
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    directory = ImageFileDirectory_v2(group=tag)
    for name, value in values.items():
        directory[name] = value
    with open(path, "r+b") as file:
        offset = file.seek(0, io.SEEK_END)
        offset += file.write(b"\0" * (offset % 2))
        file.write(directory.tobytes(offset))
    with tifffile.TiffFile(path, mode="r+") as written:
        written_page: Any = written.pages[page]
        entry: Any = written_page.tags[tag + 1]
        entry.overwrite(offset)
        place = entry.offset
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(struct.pack("<H", tag))


# --- formats that want the whole image at once ---------------------------------------------------------------------


def _write_whole(
    path: Path, target: FileFormat, pixels: NDArray[Any], still: Still, metadata: Metadata, quality: int | None
) -> list[str]:
    from PIL import Image

    notes = []

    if still.kind == "cmyk":
        image = Image.fromarray(255 - pixels, mode="CMYK")
    else:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if target.name == "webp" and image.mode in ("L", "LA"):
        image = image.convert("RGB" if image.mode == "L" else "RGBA")
    options: dict[str, Any] = {"quality": quality if quality is not None else target.quality}
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if metadata.exif:
        most = _LONGEST_SEGMENT if target.name == "jpg" else 2**31
        options["exif"], dropped = shortened_exif(resized_exif(metadata.exif, *image.size), most)
        if target.name == "avif":  # Pillow takes bytes apart and loses text that is not ASCII
            options["exif"] = metadata.exif
        if dropped:
            notes.append(f"jpg holds {most} bytes of EXIF: dropped {', '.join(dropped)}")
    if metadata.xmp and target.name == "jpg" and len(metadata.xmp) > _LONGEST_SEGMENT - len(_XMP_NAME):
        notes.append(
            f"jpg holds {_LONGEST_SEGMENT - len(_XMP_NAME)} bytes of XMP: its {len(metadata.xmp)} were dropped"
        )
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    if target.name == "jpg":
        options |= {"subsampling": 0, "optimize": True} | ({"dpi": metadata.dpi} if metadata.dpi else {})
        if (comment := metadata.comment.encode()) and len(comment) <= _LONGEST_SEGMENT:
            options["comment"] = comment
        elif comment:
            notes.append(f"jpg holds {_LONGEST_SEGMENT} bytes of comment: its {len(comment)} were dropped")
    elif target.name == "webp":
        options |= {"method": 4, "exact": True, "lossless": quality == 100}
    elif target.name == "avif":
        options |= {"speed": 6, "subsampling": "4:4:4"}
    formats = {"jpg": "JPEG", "webp": "WEBP", "avif": "AVIF"}
    # Pillow's encoders do not notice a full disk; Python's files do.
    encoded = io.BytesIO()
    image.save(encoded, format=formats[target.name], **options)
    data = encoded.getvalue()
    if target.name == "avif" and metadata.cicp:
        data = re.sub(
            rb"colrnclx....", b"colrnclx" + struct.pack(">HH", *metadata.cicp), data, count=1, flags=re.DOTALL
        )
    with open(path, "wb") as file:
        file.write(data)
    return notes


_LONGEST_SEGMENT = 65533
"""Bytes in a segment of a JPEG file."""
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
