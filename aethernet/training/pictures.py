"""Training and validation pictures: any folder in, pairs of crops out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from aethernet.errors import TrainingError
from aethernet.images.downscaling import Pixels, downscale
from aethernet.images.kernels import Kernel
from aethernet.training.extremes import extreme

__all__ = ["Batch", "CropPair", "PictureFolder", "psnr"]

logger = logging.getLogger(__name__)

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif", ".avif"})
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels, peak 255; infinite for equal pictures."""
    error = float(np.mean(np.square(one.astype(np.float64) - other.astype(np.float64))))
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


@dataclass(frozen=True, slots=True, eq=False)
class CropPair:
    """A picture and its shrunk copy."""

    name: str
    """Path below the folder, for messages."""
    high: Pixels
    """[s*H, s*W, C]."""
    low: Pixels
    """[H, W, C]."""


class Batch(NamedTuple):
    """The crops of one step."""

    low: Pixels
    """[N, H, W, C]."""
    high: Pixels
    """[N, s*H, s*W, C]."""
    extreme: npt.NDArray[np.bool_]
    """[N]; which of them became extreme pictures."""


class PictureFolder:
    """Every usable picture below a folder, decoded once and held in memory: 6 bytes a pixel by the default recipe."""

    def __init__(
        self,
        folder: Path,
        *,
        scale: int,
        channels: int,
        kernels: Sequence[Kernel] = ("bicubic",),
        smallest: int = 1,
        octaves: int = 1,
    ) -> None:
        """Read the folder, recursively.

        Pictures that are unreadable, duplicates of others or too small are skipped; each is named in the log. Files of
        other kinds, by suffix, are passed over.

        Args:
            folder: Where to look; links to files are followed, links to folders are not.
            scale: High resolution over low resolution.
            channels: 3 for RGB, 1 for grey.
            kernels: What to shrink with; each picture is kept once for each.
            smallest: Least height and width, in low-resolution pixels.
            octaves: Sizes to keep, each half the one before and none smaller than ``smallest``.

        Raises:
            TrainingError: Nothing usable is left.
        """
        if not folder.is_dir():
            raise TrainingError(
                f"expected a folder of pictures, found none at {folder}", hint="check the path of the pictures"
            )
        self.scale = scale
        self.kernels = tuple(kernels)
        self.pairs: list[CropPair] = []
        digest = hashlib.sha256()
        for name, content_digest, pixels in _read(folder, channels):
            sizes = list(_octaves(pixels, scale, smallest, octaves))
            if not sizes:
                height, width, _ = pixels.shape
                logger.warning(
                    "skipped %s: %dx%d is smaller than %d pixels a side", name, width, height, smallest * scale
                )
                continue
            digest.update(content_digest)
            self.pairs.extend(
                CropPair(name, high, downscale(high, scale, kernel)) for high in sizes for kernel in kernels
            )
        if not self.pairs:
            raise TrainingError(
                f"found no usable picture in {folder}",
                hint=f"give a folder with PNG, JPEG or WebP pictures of at least {smallest * scale} pixels a side;"
                " the log says why each file was skipped",
            )
        self.digest = digest.hexdigest()
        """Equal for folders that hold the same pictures under the same names' order."""
        areas = np.array([pair.low.shape[0] * pair.low.shape[1] for pair in self.pairs], dtype=np.float64)
        self._chances = np.sqrt(areas) / np.sqrt(areas).sum()

    def batch(
        self, step: int, *, seed: int, size: int, patch: int, candidates: int, extreme_share: float = 0.0
    ) -> Batch:
        """The crops of one step, a pure function of its arguments.

        Larger pictures are drawn more often, by the square root of their area. Each crop is turned and mirrored at
        random. A crop becomes an extreme picture with the probability ``extreme_share``.
        """
        random = np.random.default_rng([seed, step])
        crops = [self._crop(random, patch, candidates) for _ in range(size)]
        extreme = np.zeros(size, dtype=np.bool_)
        if extreme_share:  # without it nothing more is drawn, so that earlier recipes give the batches they gave
            for number, (_, high) in enumerate(crops):
                if random.random() < extreme_share:
                    crops[number], extreme[number] = self._extreme(random, high), True
        return Batch(np.stack([low for low, _ in crops]), np.stack([high for _, high in crops]), extreme)

    def _crop(self, random: np.random.Generator, patch: int, candidates: int) -> tuple[Pixels, Pixels]:
        drawn = [self._place(random, patch) for _ in range(candidates)]
        pair, top, left = (
            max(drawn, key=lambda place: _detail(place, patch, self.scale)) if candidates > 1 else drawn[0]
        )
        scale = self.scale
        low = pair.low[top : top + patch, left : left + patch]
        high = pair.high[scale * top : scale * (top + patch), scale * left : scale * (left + patch)]
        turns, mirror = int(random.integers(4)), bool(random.integers(2))
        low, high = np.rot90(low, turns), np.rot90(high, turns)
        return (low[:, ::-1], high[:, ::-1]) if mirror else (low, high)

    def _extreme(self, random: np.random.Generator, high: Pixels) -> tuple[Pixels, Pixels]:
        high = extreme(random, high, self.scale)
        return downscale(high, self.scale, self.kernels[int(random.integers(len(self.kernels)))]), high

    def _place(self, random: np.random.Generator, patch: int) -> tuple[CropPair, int, int]:
        pair = self.pairs[int(random.choice(len(self.pairs), p=self._chances))]
        height, width, _ = pair.low.shape
        return pair, int(random.integers(height - patch + 1)), int(random.integers(width - patch + 1))


def _detail(place: tuple[CropPair, int, int], patch: int, scale: int) -> float:
    """Mean absolute step between neighbours of the high-resolution crop, in grey or the green of RGB."""
    pair, top, left = place
    channel = min(1, pair.high.shape[2] - 1)
    rows, columns = (slice(scale * start, scale * (start + patch)) for start in (top, left))
    crop = pair.high[rows, columns, channel].astype(np.int16)
    return float(np.abs(np.diff(crop, axis=0)).mean() + np.abs(np.diff(crop, axis=1)).mean())


def _read(folder: Path, channels: int) -> Iterator[tuple[str, bytes, Pixels]]:
    """Name, digest and pixels of every distinct readable picture, in the order of their names."""
    seen: dict[bytes, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES):
        name = path.relative_to(folder).as_posix()
        try:
            content = hashlib.sha256(path.read_bytes()).digest()
            if content in seen:
                logger.warning("skipped %s: the same file as %s", name, seen[content])
                continue
            with Image.open(path) as picture:
                if picture.mode not in _EIGHT_BIT_MODES:
                    logger.warning("skipped %s: expected 8 bits per channel, found mode %s", name, picture.mode)
                    continue
                pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            logger.warning("skipped %s: not a readable picture (%s)", name, error)
            continue
        seen[content] = name
        yield name, content, pixels.reshape(*pixels.shape[:2], channels)


def _octaves(pixels: Pixels, scale: int, smallest: int, octaves: int) -> Iterator[Pixels]:
    for _ in range(octaves):
        height, width = (side // (2 * scale) * 2 * scale for side in pixels.shape[:2])
        if min(height, width) < max(smallest * scale, 1):
            return
        pixels = pixels[:height, :width]
        yield pixels
        pixels = downscale(pixels, 2)
