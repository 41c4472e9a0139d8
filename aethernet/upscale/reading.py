"""Image files of every kind into arrays, with all that has to survive beside the pixels.

Pillow reads nearly everything, but colours of 16 bits only as 8; those are read by imagecodecs and tifffile.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aethernet.errors import ImageError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Exif, Image

__all__ = ["LARGEST", "Metadata", "Still", "read_still"]

LARGEST = 20_000 * 20_000
"""Pixels of the largest image that is read."""

_ORIENTATION, _EXIF_IFD, _GPS_IFD = 0x0112, 0x8769, 0x8825
_PIXEL_X, _PIXEL_Y = 0xA002, 0xA003
# What a TIFF's directory says about the image; the rest of it describes how that file was laid out.
_DESCRIPTIVE = {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, *range(0x9C9B, 0x9CA0)}

# Transposition for each EXIF orientation, on [H, W, C].
_TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a file says beside its pixels."""

    icc: bytes | None = None
    """Colour profile that fits the pixels."""
    exif: Exif | None = None
    """With orientation 1: the pixels are upright."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """One image, upright, decoded."""

    colour: NDArray[Any]
    """[H, W, 1 or 3], uint8, uint16 or float32 in [0, 1]. For CMYK, 255 - CMY."""
    plane: NDArray[Any] | None = None
    """[H, W] of the same type: alpha, or for CMYK 255 - K."""
    kind: Literal["grey", "rgb", "cmyk"] = "rgb"
    format: str = ""
    """Pillow's name of the file format."""
    metadata: Metadata = Metadata()
    notes: tuple[str, ...] = ()
    """What a user should be told."""

    @classmethod
    def of_array(cls, array: NDArray[Any]) -> Still:
        """Wrap an array as :meth:`aethernet.Upscaler.upscale` takes it.

        Raises:
            UsageError: Shape, type or values are not among those taken.
        """
        if array.dtype.kind == "f":
            if not np.isfinite(array).all():
                raise UsageError("expected finite values, found NaN or infinity in the image")
            array = array.astype(np.float32, copy=False)
        elif array.dtype not in (np.uint8, np.uint16):
            raise UsageError(f"expected uint8, uint16 or floats in [0, 1], found {array.dtype}")
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or not array.size:
            raise UsageError(f"expected an image of shape [H, W] or [H, W, 1 to 4], found {list(array.shape)}")
        colours = 1 if array.shape[2] < 3 else 3
        plane = array[..., colours] if array.shape[2] in (2, 4) else None
        return cls(colour=array[..., :colours], plane=plane, kind="grey" if colours == 1 else "rgb")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.colour.shape[1], self.colour.shape[0]

    @property
    def has_alpha(self) -> bool:
        """Whether the plane is transparency."""
        return self.plane is not None and self.kind != "cmyk"

    def filled_colour(self) -> NDArray[Any]:
        """The colours, those of fully transparent pixels replaced by their neighbours'.

        Nobody sees such colours, and what editors leave there (black, mostly) would bleed into the visible edge.
        """
        if not self.has_alpha or self.plane is None or (hidden := self.plane == 0).all() or not hidden.any():
            return self.colour
        return _fill(self.colour, ~hidden)

    def as_rgb(self) -> Still:
        """CMYK through its profile (or Pillow's formula without one) to sRGB; everything else as it is."""
        if self.kind != "cmyk" or self.plane is None:
            return self
        import io

        from PIL import Image, ImageCms

        cmyk = Image.fromarray(255 - np.concatenate([self.colour, self.plane[..., None]], axis=2), mode="CMYK")
        icc, note = None, "CMYK became RGB by the formula, because there was no profile"
        if self.metadata.icc:
            try:
                srgb = ImageCms.createProfile("sRGB")
                source = ImageCms.ImageCmsProfile(io.BytesIO(self.metadata.icc))
                rgb = ImageCms.profileToProfile(cmyk, source, srgb, outputMode="RGB")
                icc, note = ImageCms.ImageCmsProfile(srgb).tobytes(), "CMYK became sRGB through its profile"
            except ImageCms.PyCMSError:
                rgb = None
        else:
            rgb = None
        colour = np.asarray(rgb if rgb is not None else cmyk.convert("RGB"))
        return replace(
            self,
            colour=colour,
            plane=None,
            kind="rgb",
            metadata=replace(self.metadata, icc=icc),
            notes=(*self.notes, note),
        )


def read_still(path: Path | str) -> Still:
    """Read one image file; the first image of a file that holds several.

    Raises:
        ImageError: It is missing, damaged, no image, too large, or of a kind with no known range of values.
    """
    from PIL import UnidentifiedImageError

    path = Path(path)
    try:
        with _open(path) as image:
            width, height = image.size
            if width * height > LARGEST:
                raise ImageError(f"expected at most {LARGEST // 10**6} megapixels, found {width}x{height}: {path}")
            return _read(path, image)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, RuntimeError) as error:
        missing = not path.is_file()
        raise ImageError(
            f"expected an image at {path}, found {'no file' if missing else f'something that cannot be read: {error}'}"
        ) from error


_opening = threading.Lock()


def _open(path: Path) -> Image:
    """Pillow's own limit is 179 megapixels and global; ours is checked right after opening."""
    from PIL import Image

    with _opening:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _read(path: Path, image: Image) -> Still:
    notes = []
    if (count := getattr(image, "n_frames", 1)) > 1:
        notes.append(f"only the first of {count} images in the file was upscaled")
    information, form = dict(image.info), image.format or ""
    exif = image.getexif()
    orientation = exif.get(_ORIENTATION, 1)
    deep = _deep_pixels(path, image)
    if deep is None:
        pixels, kind = _pixels(image)
        if form == "TIFF":
            orientation = 1  # Pillow turns these itself while it loads them
    else:
        pixels, kind = deep, "grey" if deep.shape[2] < 3 else "rgb"
    pixels = _TURNS.get(orientation, _TURNS[1])(pixels)
    colours = 1 if kind == "grey" else 3
    plane = pixels[..., colours] if pixels.shape[2] > colours else None
    icc = information.get("icc_profile") or None
    if icc and icc[16:20] != {"grey": b"GRAY", "rgb": b"RGB ", "cmyk": b"CMYK"}[kind]:
        notes.append(f"the colour profile was dropped: it is for {icc[16:20]!r}, not for {kind}")
        icc = None
    metadata = Metadata(
        icc=icc, exif=_upright(exif, form == "TIFF"), xmp=_upright_xmp(information.get("xmp")), dpi=_dpi(information)
    )
    return Still(
        colour=pixels[..., :colours], plane=plane, kind=kind, format=form, metadata=metadata, notes=tuple(notes)
    )


def _pixels(image: Image) -> tuple[NDArray[Any], Literal["grey", "rgb", "cmyk"]]:
    """[H, W, C] as Pillow decodes it: 8 bits, or 16 for grey."""
    mode = image.mode
    transparent = "transparency" in image.info
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None], "grey"
    if mode in ("I", "F"):
        raise ValueError(f"values of 32 bits (mode {mode}) have no known range; save it with 8 or 16 bits")
    if mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        if converted is None:
            raise ValueError("LAB colours could not be turned into sRGB")
        return np.asarray(converted), "rgb"
    if mode == "CMYK":
        return 255 - _as_array(image, "CMYK", 4), "cmyk"
    if mode in ("1", "L") and not transparent:
        return _as_array(image, "L", 1), "grey"
    if mode in ("LA", "La", "1", "L"):
        return _as_array(image, "LA", 2), "grey"
    if mode in ("RGBA", "RGBa", "PA") or transparent:
        return _as_array(image, "RGBA", 4), "rgb"
    return _as_array(image, "RGB", 3), "rgb"


_ROWS_AT_A_TIME = 256


def _as_array(image: Image, mode: str, channels: int) -> NDArray[np.uint8]:
    """[H, W, C] of the image in ``mode``, some rows at a time: Pillow's copies of huge images are huge too."""
    image.load()  # may turn it, and so change its size
    width, height = image.size
    through = "RGBA" if mode == "LA" and image.mode != "LA" else mode  # Pillow has no straight way
    pixels = np.empty((height, width, channels), dtype=np.uint8)
    for top in range(0, height, _ROWS_AT_A_TIME):
        bottom = min(height, top + _ROWS_AT_A_TIME)
        part = image.crop((0, top, width, bottom))
        part.info = image.info  # transparency is in there
        if through != image.mode:
            part = part.convert(through)
        if through != mode:
            part = part.convert(mode)
        pixels[top:bottom] = np.asarray(part).reshape(bottom - top, width, channels)
    return pixels


def _deep_pixels(path: Path, image: Image) -> NDArray[Any] | None:
    """[H, W, C] uint16 of a file with more than 8 bits in several channels; None for all others."""
    several = len(image.getbands()) > 1
    if image.format == "PNG":
        with open(path, "rb") as file:
            header = file.read(26)
        if header[24] != 16 or (header[25] == 0 and "transparency" not in image.info):
            return None
        return _three_axes(_require("imagecodecs").png_decode(path.read_bytes()))
    if image.format == "TIFF" and several:
        bits = image.tag_v2.get(258, (8,))  # type: ignore[attr-defined]  # Pillow's TIFF class has it
        if set(bits) != {16} or image.mode == "CMYK":
            return None
        return _deep_tiff(path)
    if image.format == "AVIF":
        with open(path, "rb") as file:
            head = file.read(4096)
        # ISO/IEC 23008-12, 6.5.6: pixi = version and flags, count, bits of each channel.
        found = re.search(rb"pixi\0\0\0\0.(.)", head, re.DOTALL)
        if found is None or (depth := found[1][0]) <= 8:
            return None
        decoded = _three_axes(_require("imagecodecs").avif_decode(path.read_bytes()))
        widened: NDArray[Any] = np.rint(decoded * (65535 / (2**depth - 1))).astype(np.uint16)
        return widened
    return None


def _deep_tiff(path: Path) -> NDArray[Any]:
    _require("imagecodecs")  # for compressed files
    with _require("tifffile").TiffFile(path) as file:
        page = file.pages[0]
        pixels: NDArray[Any] = page.asarray()
        if page.planarconfig == 2:  # channels one after another
            pixels = np.moveaxis(pixels, 0, -1)
    pixels = _three_axes(pixels)
    if pixels.dtype != np.uint16:
        raise ValueError(f"expected unsigned values of 16 bits, found {pixels.dtype}")
    return pixels[..., :4]


def _three_axes(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _require(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(module, extra="images") from error


def _upright(exif: Exif, from_tiff: bool) -> Exif | None:
    """The same facts with orientation 1; from a TIFF only those that are not about that file's layout."""
    from PIL import Image

    groups = {group: dict(exif.get_ifd(group)) for group in (_EXIF_IFD, _GPS_IFD)}
    kept = Image.Exif()
    for tag, value in exif.items():
        layout = from_tiff and (tag not in _DESCRIPTIVE or str(value).startswith('{"shape"'))  # tifffile's description
        if tag not in groups and tag != _ORIENTATION and not layout:
            kept[tag] = value
    for group, values in groups.items():
        if values:
            kept[group] = values
    if not kept:
        return None
    kept[_ORIENTATION] = 1
    return kept


def resized_exif(exif: Exif, width: int, height: int) -> Exif:
    """The same facts for an image of another size, where they state one."""
    details = exif.get(_EXIF_IFD, {})
    for tag, value in ((_PIXEL_X, width), (_PIXEL_Y, height)):
        if tag in details:
            details[tag] = value
    return exif


def _upright_xmp(xmp: bytes | str | None) -> bytes | None:
    if not xmp:
        return None
    text = xmp.encode() if isinstance(xmp, str) else xmp
    return re.sub(rb'tiff:Orientation="\d"', b'tiff:Orientation="1"', text)


def _dpi(information: dict[Any, Any]) -> tuple[float, float] | None:
    try:
        across, down = (float(one) for one in information["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if across > 0 and down > 0 else None


def _fill(colour: NDArray[Any], visible: NDArray[np.bool_]) -> NDArray[Any]:
    """Hidden pixels take the mean of the visible ones around them, from the nearest scale that has any.

    The pull-push scheme: halve until everything is visible, then hand colours back down (Gortler et al. 1996,
    "The Lumigraph", section 3.4).
    """
    # The finest level is gone through some rows at a time: as floats it would be four times the image.
    blocks = [slice(top, top + _ROWS_AT_A_TIME) for top in range(0, len(colour), _ROWS_AT_A_TIME)]
    weights = (visible[rows][..., None].astype(np.float32) for rows in blocks)
    halves = [(_halved(colour[rows] * part), _halved(part)) for rows, part in zip(blocks, weights, strict=True)]
    levels = [(np.concatenate([one for one, _ in halves]), np.concatenate([one for _, one in halves]))]
    del halves
    while levels[-1][1].min() == 0 and max(levels[-1][1].shape[:2]) > 1:
        total, weight = (_halved(part) for part in levels[-1])
        levels.append((total, weight))
    total, weight = levels.pop()
    filled = total / np.maximum(weight, 1e-6)
    for total, weight in reversed(levels):
        coarse = filled.repeat(2, axis=0).repeat(2, axis=1)[: total.shape[0], : total.shape[1]]
        filled = np.where(weight > 0, total / np.maximum(weight, 1e-6), coarse)
    result = colour.copy()
    for rows in blocks:
        hidden = ~visible[rows]
        part = filled[rows.start // 2 : rows.stop // 2].repeat(2, axis=0).repeat(2, axis=1)
        found = part[: hidden.shape[0], : hidden.shape[1]][hidden]
        result[rows][hidden] = (np.rint(found) if colour.dtype.kind == "u" else found).astype(colour.dtype)
    return result


def _halved(part: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width, channels = part.shape
    padded = np.zeros((height + height % 2, width + width % 2, channels), dtype=np.float32)
    padded[:height, :width] = part
    blocks = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, channels)
    total: NDArray[np.float32] = blocks.sum(axis=(1, 3))
    return total
