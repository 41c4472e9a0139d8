"""How low-resolution pictures are made from high-resolution ones where a set has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aethernet.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KERNELS", "shrink"]

KERNELS = ("matlab-bicubic", "bicubic", "box", "dpid")
"""``matlab-bicubic`` is what standard sets are made with; the others are :mod:`aethernet.training.shrinking`'s."""


def shrink(levels: NDArray[np.uint8], scale: int, kernel: str) -> NDArray[np.uint8]:
    """[H, W, C] -> [H / scale, W / scale, C], 8-bit values in and out; both sides must divide by ``scale``.

    Raises:
        UsageError: There is no such kernel.
    """
    if kernel not in KERNELS:
        raise UsageError(f"expected a kernel of {', '.join(KERNELS)}, found '{kernel}'")
    if kernel == "matlab-bicubic":
        return _along(_along(levels, scale).transpose(1, 0, 2), scale).transpose(1, 0, 2)
    from aethernet.training.shrinking import downsample

    return downsample(levels, scale, kernel)  # type: ignore[arg-type]  # one of its kernels, as checked


def _along(levels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
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


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys 1981 (doi:10.1109/TASSP.1981.1163711), a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
