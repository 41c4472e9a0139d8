"""Pictures unlike any photograph, so that training bounds a network on them too.

A gated feed-forward multiplies its input with itself, block after block: what lies a few times outside the values that
training has shown is squared each time and soon exceeds float32. Photographs alone leave such values within reach of
a fine texture of high contrast.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aethernet.images.downscaling import Pixels

__all__ = ["extreme"]

_Field = npt.NDArray[np.float64]
"""[H, W, 1 or C]; 0 to 1."""


def extreme(random: np.random.Generator, pixels: Pixels, grain: int) -> Pixels:
    """An extreme picture of the same size: noise, checkerboard or stripes, or ``pixels`` with far too much contrast.

    Args:
        random: Decides everything.
        pixels: A crop of a photograph, [H, W, C].
        grain: Size of the smallest detail, in pixels, half of the time: the scale, so that shrinking spares it.
    """
    height, width, channels = pixels.shape
    kind = int(random.integers(4))
    if kind == 3:
        field = _contrast(random, pixels)
    else:
        size = int(random.choice([1, grain, grain, grain, 2 * grain, int(random.integers(1, 8 * grain))]))
        rows, columns = np.arange(height)[:, None] // size, np.arange(width)[None, :] // size
        if kind == 0:
            field = _noise(random, rows.max() + 1, columns.max() + 1, channels)[rows, columns]
        elif kind == 1:
            field = _two_colours(random, ((rows + columns) % 2)[..., None].astype(np.float64), channels)
        else:
            field = _two_colours(random, _stripes(random, height, width, size), channels)
    strength = min(1.0, random.uniform(0.1, 2))  # weak ones lead the way where strong ones overflow a network
    field = 0.5 + strength * (field - 0.5)
    levels: Pixels = (255 * field).round().clip(0, 255).astype(np.uint8)
    return levels


def _noise(random: np.random.Generator, height: int, width: int, channels: int) -> _Field:
    """Black and white, saturated colours, or all values; in all channels alike or in each its own."""
    field = random.random((height, width, channels if random.integers(2) else 1))
    if random.integers(2):
        field = np.where(field < random.uniform(0.05, 0.95), 0.0, 1.0)  # few specks up to many
    return np.broadcast_to(field, (height, width, channels))


def _stripes(random: np.random.Generator, height: int, width: int, size: int) -> _Field:
    """Lines ``size`` pixels wide, upright, lying or at an angle; hard or soft edges."""
    angle = random.choice([0.0, np.pi / 2, random.uniform(0, np.pi)])
    along = np.arange(height)[:, None] * np.sin(angle) + np.arange(width)[None, :] * np.cos(angle)
    wave = np.sin(np.pi * (along + 0.5) / size)[..., None]
    field: _Field = (wave > 0).astype(np.float64) if random.integers(2) else (wave + 1) / 2
    return field


def _two_colours(random: np.random.Generator, field: _Field, channels: int) -> _Field:
    one = random.integers(2, size=channels).astype(np.float64)  # every channel empty or full
    other = 1 - one if random.integers(2) else random.random(channels)
    return one + field * (other - one)


def _contrast(random: np.random.Generator, pixels: Pixels) -> _Field:
    """Contrast up to sixteenfold around the mean of each channel, moved up or down, half of the time negative."""
    values = pixels.astype(np.float64) / 255
    gain = 2 ** random.uniform(0.5, 4) * random.choice([-1, 1])
    field: _Field = (values - values.mean(axis=(0, 1))) * gain + random.uniform(0, 1)
    return field
