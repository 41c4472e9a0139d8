"""Measures of how far two pictures are apart. Pure functions on [N, C, H, W] float arrays; the peak is always 1.0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["LevelShares", "crop_border", "level_shares", "luma", "psnr", "ssim"]

_SSIM_WINDOW = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelShares:
    """How many 8-bit values differ, as shares of all values."""

    equal: float
    off_by_1: float
    off_by_2_or_more: float
    largest: int
    """Largest difference in levels of 255."""


def psnr(a: ImageArray, b: ImageArray) -> float | None:
    """Peak signal-to-noise ratio in dB for peak 1.0; None for identical pictures (it would be infinite)."""
    error = float(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64))))
    return None if error == 0 else -10 * math.log10(error)


def ssim(a: ImageArray, b: ImageArray) -> float | None:
    """Structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861): Gaussian window 11, sigma 1.5, per
    channel.

    None where a side is shorter than the window. Computed by scikit-image; the mean over the batch.
    """
    from skimage.metrics import structural_similarity

    if min(a.shape[2:]) < _SSIM_WINDOW:
        return None
    values = [
        structural_similarity(
            one.astype(np.float64),
            other.astype(np.float64),
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for one, other in zip(a, b, strict=True)
    ]
    return float(np.mean(values))


def level_shares(a: ImageArray, b: ImageArray) -> LevelShares:
    """Compare after clipping to [0, 1] and rounding to 8 bits, as a viewer sees it."""
    from aethernet.images.files import to_levels

    distance = np.abs(to_levels(a).astype(np.int16) - to_levels(b).astype(np.int16))
    counts = np.bincount(np.minimum(distance.ravel(), 2), minlength=3) / distance.size
    return LevelShares(
        equal=float(counts[0]),
        off_by_1=float(counts[1]),
        off_by_2_or_more=float(counts[2]),
        largest=int(distance.max()),
    )


def luma(picture: ImageArray) -> ImageArray:
    """[N, 3, H, W] RGB -> [N, 1, H, W] Y of ITU-R BT.601 in studio range (16 to 235 of 255), as super-resolution
    papers use.
    """
    if picture.shape[1] == 1:
        return picture
    weights = np.array([65.481, 128.553, 24.966], dtype=np.float64) / 255
    y = np.tensordot(picture.astype(np.float64), weights, axes=([1], [0])) + 16 / 255
    return y[:, None].astype(np.float32)


def crop_border(picture: ImageArray, border: int) -> ImageArray:
    """Cut ``border`` pixels off every side; a picture too small for it comes back whole."""
    if border == 0 or min(picture.shape[2:]) <= 2 * border:
        return picture
    return picture[:, :, border:-border, border:-border]
