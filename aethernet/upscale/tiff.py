"""TIFF files of all bit depths, photometric interpretations and layouts into arrays.

tifffile and imagecodecs decode strips and tiles; what the numbers mean (TIFF 6.0, its supplements) is worked out here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aethernet.errors import ImageError
from aethernet.upscale.libraries import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DecodedTiff", "is_tiff", "read_tiff"]

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_CIELAB, _ICCLAB = 8, 9
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _CIELAB: 3, _ICCLAB: 3}
_OTHERS = {4: "a transparency mask", 32803: "a camera's raw values", 34892: "a camera's raw values"}
_PREMULTIPLIED, _STRAIGHT = 1, 2
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_MOST_BITS = 16
"""Of integers: more have no meaning that programs agree on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedTiff:
    """One image of a TIFF, as it lies in the file (not turned)."""

    pixels: NDArray[Any]
    """[H, W, C], uint8 or uint16 over their whole range, or float32 as stored; for CMYK the largest value minus ink."""
    kind: Literal["grey", "rgb", "cmyk"]
    orientation: int
    icc: bytes | None
    icc_fits: bool
    """Whether the profile is about these values; Lab became sRGB."""
    notes: tuple[str, ...]
    pages: int = 1
    """Images in the file that are no thumbnails, as far as it can be followed."""


def is_tiff(path: Path) -> bool:
    """By its first bytes."""
    with open(path, "rb") as file:
        return file.read(4) in _MAGIC


def read_tiff(path: Path, largest: int, number: int = 0, *, any_range: bool = False) -> DecodedTiff:
    """Decode one of the images that are no thumbnails.

    Args:
        path: The file.
        largest: Pixels beyond which it is refused.
        number: Which of them, from 0.
        any_range: Take integers that have no known range, too: as floats.

    Raises:
        ImageError: It is too large, or its values have no meaning that is known.
        ValueError: It is damaged; other exceptions of tifffile and imagecodecs mean the same.
    """
    require("imagecodecs")  # for compressed files
    # Damaged directories are answered here, not on the terminal.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with require("tifffile").TiffFile(path) as file:
        notes: list[str] = []
        pages = _pages(file)
        count, page = len(pages), pages[number]
        height, width = int(page.imagelength), int(page.imagewidth)
        if width < 1 or height < 1:
            raise ImageError(f"expected at least one pixel, found {width}x{height}: {path}")
        if width * height > largest:
            raise ImageError(f"expected at most {largest // 10**6} megapixels, found {width}x{height}: {path}")
        photometric = int(page.photometric)
        if photometric not in _COLOURS:
            raise ImageError(
                f"expected grey, RGB, palette, CMYK, YCbCr or Lab values in {path}, found "
                f"{_OTHERS.get(photometric, f'photometric interpretation {photometric}')}",
                hint="develop or convert it with the program it comes from",
            )
        pixels = _samples(page)
        icc = _tag(page, 34675)
        bits, layout = _bits(page), _sample_format(page)
        colours = _COLOURS[photometric]
        colour, extra = pixels[..., :colours], pixels[..., colours:]
        if colour.shape[2] < colours:
            raise ImageError(f"expected {colours} channels in {path}, found {colour.shape[2]}")
        palette = _tag(page, 320)
        subsampled = tuple(_tag(page, 530) or (2, 2))
        decoded_by_codec = photometric == _YCBCR and int(page.compression) in (6, 7, 50001, 34892)
        orientation = _tag(page, 274) or 1
    full: NDArray[Any]
    kind: Literal["grey", "rgb", "cmyk"] = "grey" if colours == 1 else "cmyk" if photometric == _CMYK else "rgb"
    if photometric == _PALETTE:
        full, kind = _looked_up(colour[..., 0], palette, bits), "rgb"
    elif photometric in (_CIELAB, _ICCLAB):
        full = _from_lab(colour, bits, signed=photometric == _CIELAB)
    else:
        full = _widened(colour, bits, layout, path, any_range=any_range)
        if photometric == _YCBCR and not decoded_by_codec:
            full = _from_ycbcr(full, subsampled)
        if photometric in (_WHITE_IS_ZERO, _CMYK):
            full = (np.float32(1) if full.dtype.kind == "f" else np.iinfo(full.dtype).max) - full
    alpha = _alpha(page, extra, notes)
    if alpha is not None and kind == "cmyk":
        notes.append("the transparency of the CMYK image was dropped")
    elif alpha is not None:
        plane = _as_type(_widened(alpha[0], bits, layout, path), full.dtype)
        if alpha[1]:
            narrow = photometric in (_BLACK_IS_ZERO, _RGB) and full.dtype.kind != "f"
            # Division magnifies rounding: where samples were widened, it is theirs as they stand in the file.
            full = _divided(full, plane) if not narrow else _divided(colour, alpha[0], bits, full.dtype)
        full = np.concatenate([full, plane], axis=2)
    return DecodedTiff(
        pixels=full,
        kind=kind,
        orientation=int(orientation),
        icc=icc,
        icc_fits=photometric not in (_CIELAB, _ICCLAB),
        notes=tuple(notes),
        pages=count,
    )


def _pages(file: Any) -> list[Any]:
    """The pages that are no thumbnails, as far as the file can be followed; the first one where all are."""
    pages = []
    try:
        for index in range(len(file.pages)):
            page = file.pages[index]
            if not int(getattr(page, "subfiletype", 0) or 0) & 5:  # neither reduced nor a mask
                pages.append(page)
    except Exception:  # noqa: BLE001 (a broken chain of directories; what came before it can be read)
        if not pages:
            pages = [file.pages[0]]
    return pages or [file.pages[0]]


def _tag(page: Any, number: int) -> Any:
    entry = page.tags.get(number)
    return None if entry is None else entry.value


def _bits(page: Any) -> int:
    """Of each sample; 16 where the samples differ, which :func:`_samples` has widened."""
    found = page.bitspersample
    return int(found if isinstance(found, int) else found[0])


def _sample_format(page: Any) -> int:
    found = page.sampleformat
    return int(found if isinstance(found, int) else found[0])


def _samples(page: Any) -> NDArray[Any]:
    """[H, W, samples], as stored."""
    pixels: NDArray[Any] = np.asarray(page.asarray())
    height, width, samples = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
    if int(getattr(page, "imagedepth", 1)) > 1:
        raise ValueError("expected one plane, found a volume")
    if int(page.planarconfig) == 2 and samples > 1:  # channels one after another
        return np.moveaxis(pixels.reshape(samples, height, width), 0, -1)
    return pixels.reshape(height, width, samples)


def _widened(samples: NDArray[Any], bits: int, layout: int, path: Path, *, any_range: bool = False) -> NDArray[Any]:
    """Integers of up to 8 bits over the whole of uint8, up to 16 over uint16; floats as float32."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype.kind == "b":
        return samples.astype(np.uint8) * np.uint8(255)
    if layout == _SIGNED or samples.dtype.kind == "i" or bits > _MOST_BITS:
        if any_range:
            return samples.astype(np.float32)
        what = f"{'signed ' if layout == _SIGNED or samples.dtype.kind == 'i' else ''}integers of {bits} bits"
        raise ImageError(
            f"expected unsigned integers of at most {_MOST_BITS} bits or floats in {path}, found {what}, which have no "
            "known range",
            hint="say what is black and what is white with --range LOW:HIGH, or save it with 8 or 16 bits",
        )
    if bits in (8, 16):
        return samples.astype(np.uint8 if bits == 8 else np.uint16, copy=False)
    top = 255 if bits < 8 else 65535
    scaled: NDArray[Any] = np.rint(samples.astype(np.float64) * (top / (2**bits - 1)))
    return scaled.astype(np.uint8 if top == 255 else np.uint16)


def _as_type(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """The same shares of the whole range in another type."""
    if values.dtype == dtype:
        return values
    share: NDArray[Any] = values if values.dtype.kind == "f" else values.astype(np.float64) / np.iinfo(values.dtype).max
    return share.astype(dtype) if np.dtype(dtype).kind == "f" else np.rint(share * np.iinfo(dtype).max).astype(dtype)


def _looked_up(index: NDArray[Any], palette: Any, bits: int) -> NDArray[np.uint8]:
    """The upper byte of the colour map's 16 bits: writers put 8 bits there, some twice, some followed by zeros."""
    table: NDArray[Any] = np.asarray(palette, dtype=np.uint32).reshape(3, -1).T
    if len(table) < 2**bits:
        raise ValueError(f"expected {2**bits} colours in the palette, found {len(table)}")
    if table.max(initial=0) > 255:
        table = table >> 8
    looked_up: NDArray[np.uint8] = table.astype(np.uint8)[index.astype(np.intp)]
    return looked_up


def _from_ycbcr(values: NDArray[Any], subsampled: tuple[int, ...]) -> NDArray[Any]:
    """Full-range BT.601, which is what TIFF takes unless told otherwise; chroma has the size of luma here."""
    if subsampled != (1, 1) and values.dtype != np.uint8:
        raise ValueError(f"expected chroma of full size, found it subsampled {subsampled}")
    top = float(np.iinfo(values.dtype).max)
    y, cb, cr = (values[..., index].astype(np.float64) for index in range(3))
    middle = (top + 1) / 2
    red, blue = y + 1.402 * (cr - middle), y + 1.772 * (cb - middle)
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    rgb = np.rint(np.stack([red, green, blue], axis=2)).clip(0, top)
    converted: NDArray[Any] = rgb.astype(values.dtype)
    return converted


def _from_lab(values: NDArray[Any], bits: int, *, signed: bool) -> NDArray[Any]:
    """CIE L*a*b* under D50 to sRGB, in the same number of bits; a and b are signed in CIELab, shifted in ICCLab."""
    if bits not in (8, 16) or values.dtype.kind not in "ui":
        raise ValueError(f"expected Lab values of 8 or 16 bits, found {bits} of kind {values.dtype.kind}")
    unit, top = 2.0 ** (bits - 8), 2**bits - 1
    unsigned = values.astype(np.int64) & top
    light = unsigned[..., 0] * (100 / top)
    chroma = unsigned[..., 1:]
    chroma = np.where(chroma > top // 2, chroma - top - 1, chroma) if signed else chroma - (top + 1) // 2
    fy = (light + 16) / 116
    f = np.stack([fy + chroma[..., 0] / unit / 500, fy, fy - chroma[..., 1] / unit / 200], axis=2)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * np.array([0.9642, 1.0, 0.8249])
    # XYZ under D50 to linear sRGB, Bradford-adapted.
    matrix = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    )
    linear = np.clip(xyz @ matrix.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgb: NDArray[Any] = np.rint(encoded * top).astype(np.uint8 if bits == 8 else np.uint16)
    return rgb


def _alpha(page: Any, extra: NDArray[Any], notes: list[str]) -> tuple[NDArray[Any], bool] | None:
    """[H, W, 1] of the first sample that is transparency, and whether colours were multiplied by it."""
    if not extra.shape[2]:
        return None
    stated = [int(one) for one in (page.extrasamples or ())] or [0] * extra.shape[2]
    place = next((i for i, one in enumerate(stated) if one in (_PREMULTIPLIED, _STRAIGHT)), None)
    left = extra.shape[2] - (place is not None)
    if left:
        notes.append(f"{left} more channel{'s' if left > 1 else ''} of unknown meaning dropped")
    return None if place is None else (extra[..., place : place + 1], stated[place] == _PREMULTIPLIED)


def _divided(colour: NDArray[Any], alpha: NDArray[Any], bits: int | None = None, dtype: Any = None) -> NDArray[Any]:
    """Colours as they were before they were multiplied by alpha; of ``bits``, in ``dtype``, where those are stated."""
    dtype = np.dtype(colour.dtype if dtype is None else dtype)
    top = 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
    highest = top if bits is None else 2.0**bits - 1
    share = alpha.astype(np.float64) / highest
    straight = np.divide(colour, share, out=np.zeros(colour.shape), where=share > 0).clip(0, highest) * (top / highest)
    divided: NDArray[Any] = (straight if dtype.kind == "f" else np.rint(straight)).astype(dtype)
    return divided
