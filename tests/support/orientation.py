"""How EXIF and TIFF ask for an image to be turned and mirrored."""

from __future__ import annotations

import numpy as np

__all__ = ["TURNS"]

TURNS = {
    1: lambda a: a,
    2: lambda a: np.flip(a, 1),
    3: lambda a: np.rot90(a, 2),
    4: lambda a: np.flip(a, 0),
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, 1),
}
"""Orientation -> from stored pixels [H, W, …] to upright ones."""
