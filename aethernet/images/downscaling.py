"""How low-resolution pictures are made from high-resolution ones: 8-bit values in, 8-bit values out.

- ``matlab-bicubic``: MATLAB's antialiased ``imresize``, which the standard sets are made with.
- ``bicubic``: Pillow's antialiased bicubic, Keys' cubic with a = -0.5, its support widened by the scale factor.
- ``box``: the mean of scale x scale pixels ("area").
- ``dpid``: detail-preserving downscaling (Weber et al. 2016, doi:10.1145/2980179.2980239) with lambda 0.5: a mean of
  scale x scale pixels in which those that differ from their surroundings count more. Common among published
  super-resolution networks, because thin lines survive it.

A network learns to invert the kernels it has seen, so its PSNR holds for those. One trained on bicubic alone
oversharpens what the other two have shrunk; one trained on several tells them apart by their sharpness.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from aethernet.errors import UsageError
from aethernet.images.kernels import KERNELS, Kernel

__all__ = ["Pixels", "downscale", "upsample_bicubic"]

Pixels = npt.NDArray[np.uint8]
"""[H, W, C], C = 1 (grey) or 3 (RGB)."""

_DPID_LAMBDA = 0.5


def downscale(pixels: Pixels, factor: int, kernel: Kernel = "bicubic") -> Pixels:
    """Shrink by ``factor``, by which both sides must divide; a factor of 1 gives the pixels themselves.

    Raises:
        UsageError: There is no such kernel, or a side does not divide.
    """
    if kernel not in KERNELS:
        raise UsageError(f"expected a kernel of {', '.join(KERNELS)}, found '{kernel}'")
    if factor == 1:
        return pixels
    height, width, _ = pixels.shape
    if height % factor or width % factor:
        raise UsageError(f"expected sides that divide by {factor}, found {width}x{height}")
    if kernel == "matlab-bicubic":
        return _along(_along(pixels, factor).transpose(1, 0, 2), factor).transpose(1, 0, 2)
    if kernel == "dpid":
        return _dpid(pixels, factor)
    resampling = Image.Resampling.BICUBIC if kernel == "bicubic" else Image.Resampling.BOX
    return _resize(pixels, width // factor, height // factor, resampling)


def upsample_bicubic(pixels: Pixels, factor: int) -> Pixels:
    """Pillow's bicubic (a = -0.5): what every network has to beat."""
    height, width, _ = pixels.shape
    return _resize(pixels, width * factor, height * factor, Image.Resampling.BICUBIC)


def _resize(pixels: Pixels, width: int, height: int, resampling: Image.Resampling) -> Pixels:
    channels = [
        np.asarray(Image.fromarray(pixels[:, :, channel]).resize((width, height), resampling))
        for channel in range(pixels.shape[2])
    ]
    return np.stack(channels, axis=2)


def _dpid(pixels: Pixels, factor: int) -> Pixels:
    height, width, channels = pixels.shape
    shape = height // factor, factor, width // factor, factor, channels
    squares = pixels.reshape(shape).astype(np.float32)  # [H, s, W, s, C]
    means = squares.mean(axis=(1, 3))
    surroundings = _smooth(means)[:, None, :, None]
    distances = np.sqrt(np.square(squares - surroundings).mean(axis=4, keepdims=True))
    weights = distances**_DPID_LAMBDA
    total = weights.sum(axis=(1, 3))
    weighted = (weights * squares).sum(axis=(1, 3)) / np.maximum(total, np.finfo(np.float32).tiny)
    shrunk = np.where(total > 0, weighted, means)
    rounded: Pixels = shrunk.round().clip(0, 255).astype(np.uint8)
    return rounded


def _smooth(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Weights 1 2 1 along rows and columns, edges repeated."""
    for axis in (0, 1):
        padding = [(0, 0)] * values.ndim
        padding[axis] = (1, 1)
        padded = np.pad(values, padding, mode="edge")
        before, middle, after = (
            np.take(padded, range(start, start + values.shape[axis]), axis=axis) for start in (0, 1, 2)
        )
        values = ((before + 2 * middle + after) / 4).astype(np.float32)
    return values


def _along(levels: Pixels, scale: int) -> Pixels:
    """The first axis shrunk as MATLAB's ``imresize(picture, 1 / scale)`` does with 8-bit pictures.

    Keys' cubic with a = -0.5, widened by ``scale`` (antialiasing); pictures continue mirrored beyond their edges, and
    values are rounded, half up, after each axis.
    """
    length = levels.shape[0]
    centres = (np.arange(length // scale) + 0.5) * scale - 0.5
    places = np.floor(centres - 2 * scale).astype(np.int64)[:, None] + np.arange(4 * scale + 2)
    weights = _cubic((centres[:, None] - places) / scale)
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = places % (2 * length)
    mirrored = np.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
    sums = np.zeros((len(centres), *levels.shape[1:]))
    for column in range(places.shape[1]):
        sums += weights[:, column, None, None] * levels[mirrored[:, column]]
    return np.floor(sums.clip(0, 255) + 0.5).astype(np.uint8)


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys 1981 (doi:10.1109/TASSP.1981.1163711), a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
