"""Images in and out of arrays: [N, C, H, W] float32 in [0, 1], RGB or grey."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aethernet.artifact import atomic_path
from aethernet.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    ImageArray = NDArray[np.float32]

__all__ = [
    "SUFFIXES",
    "image_size",
    "list_images",
    "load_image",
    "pair_by_stem",
    "sample_images",
    "save_image",
    "to_levels",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""File endings that count as images in a folder."""


def list_images(folder: Path | str) -> list[Path]:
    """The images directly in ``folder``, sorted by name; links out of it are not followed.

    Raises:
        UsageError: There is no such folder, it holds no image, or two images share a stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"expected a folder of images at {folder}, found {'a file' if folder.exists() else 'nothing'}")
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink()
    )
    if not found:
        raise UsageError(f"expected images ({', '.join(SUFFIXES)}) in {folder}, found none")
    stems = [path.stem for path in found]
    twins = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twins:
        raise UsageError(f"expected one image per name in {folder}, found several called {', '.join(twins)}")
    return found


def pair_by_stem(low: Sequence[Path], high: Sequence[Path]) -> dict[str, Path]:
    """Stem of each low-resolution image -> its high-resolution partner, where there is one.

    Raises:
        UsageError: Not a single pair.
    """
    partners = {path.stem: path for path in high}
    pairs = {path.stem: partners[path.stem] for path in low if path.stem in partners}
    if not pairs:
        raise UsageError(
            "expected HR images with the names of the LR ones, found no pair",
            hint=f"LR: {', '.join(path.stem for path in low)}; HR: {', '.join(path.stem for path in high)}",
        )
    return pairs


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height in pixels, from the first bytes of a file alone.

    Raises:
        UsageError: It is no image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.size
    except (Image.DecompressionBombError, UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UsageError(f"expected an image, found something Pillow cannot read: {path} ({error})") from error


def load_image(path: Path | str, channels: int = 3) -> ImageArray:
    """Read an 8-bit view of an image as [1, channels, H, W].

    Args:
        path: Any file Pillow reads.
        channels: 3 for RGB, 1 for grey (BT.601 luma).

    Raises:
        UsageError: It is no image, has values of 32 bits, or is larger than Pillow takes (179 megapixels).
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(_as_8_bit(image).convert("RGB" if channels == 3 else "L"), dtype=np.float32)
    except Image.DecompressionBombError as error:
        raise UsageError(f"expected an image of at most 179 megapixels: {path} ({error})") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UsageError(f"expected an image, found something Pillow cannot read: {path} ({error})") from error
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)[None] / np.float32(255))


def _as_8_bit(image: Image) -> Image:
    """The upper byte of 16-bit greys, as Pillow does with 16-bit colours; by itself it cuts greys at 255: white."""
    from PIL import Image as Images

    if image.mode.startswith("I;16"):
        return Images.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"values of 32 bits (mode {image.mode}) have no known range; save it with 8 or 16 bits")
    return image


def to_levels(image: ImageArray) -> NDArray[np.uint8]:
    """Clip to [0, 1] and round to 8 bits, same shape."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def save_image(image: ImageArray, path: Path | str) -> None:
    """Write [1, C, H, W] (clipped and rounded) as PNG, in one step."""
    from PIL import Image

    levels = to_levels(image)[0].transpose(1, 2, 0)
    with atomic_path(path) as temporary:
        Image.fromarray(levels.squeeze(-1) if levels.shape[-1] == 1 else levels).save(temporary, format="PNG")


def sample_images() -> list[Path]:
    """Two small natural images that come with the library, for when nobody gives any."""
    folder = resources.files("aethernet") / "samples"
    with resources.as_file(folder) as path:
        return list_images(path)
