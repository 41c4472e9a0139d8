"""Image files of every kind into arrays, with all that has to survive beside the pixels.

Pillow reads nearly everything, but colours of 16 bits only as 8; :mod:`aethernet.upscale.deep` reads those, and
:mod:`aethernet.upscale.tiff` every TIFF; where its libraries are missing, Pillow reads the plain ones.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aethernet.errors import AethernetError, ImageError, MissingDependencyError, UsageError
from aethernet.upscale.deep import deep_pixels, pam_pixels
from aethernet.upscale.floats import encoded, read_floats, within
from aethernet.upscale.libraries import require
from aethernet.upscale.metadata import Metadata, orientation_of, read_metadata
from aethernet.upscale.tiff import is_tiff, read_tiff

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from aethernet.upscale.floats import Limits

__all__ = ["LARGEST", "Metadata", "Still", "only_first", "read_still"]

LARGEST = 20_000 * 20_000
"""Pixels of the largest image that is read."""

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
class Still:
    """One image, upright, decoded."""

    colour: NDArray[Any]
    """[H, W, 1 or 3], uint8, uint16 or float32 in [0, 1]. For CMYK, 255 - CMY."""
    plane: NDArray[Any] | None = None
    """[H, W] of the same type: alpha, or for CMYK 255 - K."""
    kind: Literal["grey", "rgb", "cmyk"] = "rgb"
    format: str = ""
    """Pillow's name of the file format."""
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()
    """What a user should be told."""
    images: int = 1
    """In the file; this is one of them."""
    limits: tuple[float, float] = (0.0, 1.0)
    """The file's own numbers for 0 and 1, where it holds floats."""
    linear: bool = False
    """Whether the file's own numbers are amounts of light; here they are coded as sRGB."""

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

        planes = np.concatenate([self.colour, self.plane[..., None]], axis=2)
        notes = self.notes
        if planes.dtype == np.uint16:
            planes = np.rint(planes / np.float32(257)).astype(np.uint8)
            notes = (*notes, "16 bits became 8 on the way from CMYK to RGB")
        cmyk = Image.fromarray(255 - planes, mode="CMYK")
        icc, note = None, "CMYK became RGB by the formula, because there was no profile"
        if self.metadata.icc:
            try:
                srgb = ImageCms.createProfile("sRGB")
                source = ImageCms.ImageCmsProfile(io.BytesIO(self.metadata.icc))
                rgb = ImageCms.profileToProfile(cmyk, source, srgb, outputMode="RGB")
                icc, note = ImageCms.ImageCmsProfile(srgb).tobytes(), "CMYK became sRGB through its profile"
            except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
                rgb, note = None, "CMYK became RGB by the formula, because its profile is damaged"
        else:
            rgb = None
        colour = np.asarray(rgb if rgb is not None else cmyk.convert("RGB"))
        return replace(
            self,
            colour=colour,
            plane=None,
            kind="rgb",
            metadata=replace(self.metadata, icc=icc),
            notes=(*notes, note),
        )


def only_first(count: int) -> str:
    """The note about a file of several images of which one was taken."""
    return f"only the first of {count} images in the file was upscaled"


def read_still(path: Path | str, page: int = 0, limits: Limits = None) -> Still:
    """Read one image file; the first image of a file that holds several.

    Args:
        path: The file.
        page: Of a TIFF: which of its images, from 0.
        limits: What is black and what is white in files of floats (:func:`~aethernet.upscale.floats.within`).

    Raises:
        ImageError: It is missing, damaged, no image, too large, or of a kind with no known range of values.
    """
    from PIL import UnidentifiedImageError

    path = Path(path)
    try:
        # Pillow warns about broken tags; what is lost becomes a note.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        if path.is_file() and is_tiff(path):
            try:
                return _read_tiff(path, page, limits)
            except MissingDependencyError:
                if not _is_plain_tiff(path):
                    raise
        if path.is_file():
            if (floats := read_floats(path, LARGEST)) is not None:
                return _of_floats(path, floats.pixels, floats.format, limits, light=floats.linear)
            if (pam := pam_pixels(path, LARGEST)) is not None:
                return _still(pam, "grey" if pam.shape[2] < 3 else "rgb", 1, "PAM", Metadata(), [], 1)
        with _open(path) as image:
            width, height = image.size
            if width * height > LARGEST:
                raise ImageError(f"expected at most {LARGEST // 10**6} megapixels, found {width}x{height}: {path}")
            return _read(path, image)
    except (AethernetError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"expected an image at {path}, found {_what_it_is(path)}") from error
    except Exception as error:  # libraries raise whatever a damaged file makes of their assumptions
        missing = not path.is_file()
        told = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ImageError(
            f"expected an image at {path}, found {'no file' if missing else f'something that cannot be read: {told}'}"
        ) from error


def _what_it_is(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(256)
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (git lfs pull fetches it)"
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page"
    return "something that no reader knows"


_LONGEST_TEXT = 64 * 2**20
"""Bytes of one text of a PNG, unpacked."""
_opening = threading.Lock()


def _open(path: Path) -> Image:
    """Pillow's own limit is 179 megapixels and global; ours is checked right after opening."""
    from PIL import Image, PngImagePlugin

    # Its limits for texts would refuse the image for them.
    PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, _LONGEST_TEXT)
    PngImagePlugin.MAX_TEXT_MEMORY = max(PngImagePlugin.MAX_TEXT_MEMORY, 4 * _LONGEST_TEXT)
    if path.suffix.lower() in (".heic", ".heif") and find_spec("pillow_heif"):
        require("pillow_heif").register_heif_opener()
    with _opening:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _read(path: Path, image: Image) -> Still:
    notes = []
    if (count := _frame_count(image)) > 1:
        notes.append(only_first(count))
    deep = deep_pixels(path, image)
    if deep is None:
        pixels, kind = _pixels(image)
    else:
        pixels, kind = deep, "grey" if deep.shape[2] < 3 else "rgb"
    metadata, lost = read_metadata(path, image, kind, image.info.get("icc_profile") or None)
    return _still(pixels, kind, orientation_of(image), image.format or "", metadata, [*notes, *lost], count)


def _is_plain_tiff(path: Path) -> bool:
    """Whether Pillow alone reads it rightly: grey (black is zero) or RGB of 8 bits, upright, without more channels."""
    with _open(path) as image:
        tags: Any = getattr(image, "tag_v2", {})
        modes = {1: "L", 2: "RGB"}
        return bool(
            modes.get(tags.get(262)) == image.mode
            and set(tags.get(258, ())) == {8}
            and set(tags.get(339, (1,))) == {1}
            and tags.get(277, 1) == len(image.getbands())
            and tags.get(274, 1) == 1
        )


def _of_floats(path: Path, pixels: NDArray[Any], form: str, limits: Limits, *, light: bool) -> Still:
    """[H, W, 1 to 4] of a file's own numbers as an image."""
    colours = 1 if pixels.shape[2] < 3 else 3
    shares, own, notes = within(pixels[..., :colours], limits, path)
    if light:
        shares = encoded(shares)
        notes.append("values are amounts of light: the network saw them coded as sRGB")
    plane = None
    if pixels.shape[2] > colours:
        plane = np.nan_to_num(pixels[..., colours]).clip(0, 1).astype(np.float32)
    kind: Literal["grey", "rgb"] = "grey" if colours == 1 else "rgb"
    return Still(colour=shares, plane=plane, kind=kind, format=form, notes=tuple(notes), limits=own, linear=light)


def _read_tiff(path: Path, page: int, limits: Limits) -> Still:
    decoded = read_tiff(path, LARGEST, page, any_range=limits is not None)
    icc = decoded.icc if decoded.icc_fits else None
    try:
        with _open(path) as image:
            image.seek(page)
            metadata, lost = read_metadata(path, image, decoded.kind, icc)
    except Exception:  # noqa: BLE001 (Pillow does not know half of what TIFF can be, and says so in many ways)
        metadata, lost = Metadata(icc=icc), ["metadata other than the colour profile was dropped"]
    pixels = decoded.pixels
    notes = [*([only_first(decoded.pages)] if decoded.pages > 1 else []), *decoded.notes]
    if pixels.dtype.kind != "f":
        return _still(pixels, decoded.kind, decoded.orientation, "TIFF", metadata, [*notes, *lost], decoded.pages)
    colours = 1 if decoded.kind == "grey" else 3
    shares, own, told = within(pixels[..., :colours], limits, path)
    pixels = np.concatenate([shares, np.nan_to_num(pixels[..., colours:]).clip(0, 1)], axis=2).astype(np.float32)
    told[0] = f"values are floats: {told[0]}"
    still = _still(pixels, decoded.kind, decoded.orientation, "TIFF", metadata, [*notes, *told, *lost], decoded.pages)
    return replace(still, limits=own)


def _still(
    pixels: NDArray[Any],
    kind: Literal["grey", "rgb", "cmyk"],
    orientation: int,
    form: str,
    metadata: Metadata,
    notes: list[str],
    images: int,
) -> Still:
    pixels = _TURNS.get(orientation, _TURNS[1])(pixels)
    colours = 1 if kind == "grey" else 3
    plane = pixels[..., colours] if pixels.shape[2] > colours else None
    return Still(
        colour=pixels[..., :colours],
        plane=plane,
        kind=kind,
        format=form,
        metadata=metadata,
        notes=tuple(notes),
        images=images,
    )


def _frame_count(image: Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 (Pillow counts by seeking, which stumbles over whatever lies behind the first image)
        return 1


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
