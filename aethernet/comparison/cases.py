"""What forms are compared on: every validation image whole, and crops at the sizes where exporters go wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aethernet.images.files import load_image

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["FULL_SIDE", "SIZES", "Case", "build_cases", "telling_cases"]

SIZES: Mapping[str, tuple[int, int, int]] = {
    "traced": (2, 24, 20),
    "odd": (1, 17, 31),
    "power of two and one less": (1, 255, 257),
    "smallest": (1, 1, 1),
    "batch of 2": (2, 64, 48),
}
"""What a size is there for -> (N, H, W)."""

FULL_SIDE = 512
"""Images larger than this are compared on their central part of this side, so that time and memory stay bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One input."""

    name: str
    """Image and size, such as ``7 256x256`` or ``odd 17x31``; unique."""
    image: str
    """Name of the image it comes from, or several joined by +."""
    input: ImageArray
    """[N, C, H, W] float32 in [0, 1]."""
    window: tuple[int, int, int, int] | None
    """For a (nearly) whole image: top, left, height, width inside it in pixels, so that an HR partner can be cut
    alike."""
    whole: tuple[int, int] = (0, 0)
    """Height and width of the whole image, where there is a window."""


def build_cases(images: Mapping[str, Path], channels: int, *, static: tuple[int, int] | None = None) -> list[Case]:
    """Cases from at least one image; the same images give the same cases.

    Args:
        images: Name -> file, in the order they are to be listed.
        channels: Channels the network takes.
        static: The only (H, W) a fixed-shape file accepts; then every image gives one such crop.
    """
    loaded = {name: load_image(path, channels) for name, path in images.items()}
    names = list(loaded)
    cases = []
    for name, image in loaded.items():
        height, width = image.shape[2:]
        size = static or (min(height, FULL_SIDE), min(width, FULL_SIDE))
        top, left = max(0, (height - size[0]) // 2), max(0, (width - size[1]) // 2)
        inside = size[0] <= height and size[1] <= width
        cases.append(
            Case(
                name=f"{name} {size[0]}x{size[1]}",
                image=name,
                input=_crop(image, top, left, *size),
                window=(top, left, *size) if inside else None,
                whole=(height, width),
            )
        )
    if static is not None:
        return cases
    for index, (purpose, (batch, height, width)) in enumerate(SIZES.items()):
        chosen = [names[(index + item) % len(names)] for item in range(batch)]
        crops = [
            _crop(loaded[name], 7 * (index + item), 11 * (index + item), height, width)
            for item, name in enumerate(chosen)
        ]
        label = f"{batch}x{height}x{width}" if batch > 1 else f"{height}x{width}"
        name = f"{purpose} {label}"
        if any(case.name == name for case in cases):  # an image of that name and size
            name += " (crop)"
        joined = "+".join(dict.fromkeys(chosen))
        cases.append(Case(name=name, image=joined, input=np.concatenate(crops), window=None))
    return cases


def telling_cases(cases: Sequence[Case], *, most_pixels: int | None = None) -> list[Case]:
    """The cases that tell a file apart from another one with the same graph, whose numbers alone differ.

    That another file of a precision handles every image at its whole size is not in question when the first one did:
    one image is kept whole, and every awkward size, whose crops come from the other images.

    Args:
        cases: From :func:`build_cases`.
        most_pixels: Leave out crops with more input pixels than this, for runtimes that have no fast kernels.
    """
    whole = [case for case in cases if case.window is not None]
    crops = [case for case in cases if case.window is None]
    if most_pixels is not None:
        crops = [case for case in crops if case.input.shape[2] * case.input.shape[3] <= most_pixels]
    return [*whole[:1], *crops]


def _crop(image: ImageArray, top: int, left: int, height: int, width: int) -> ImageArray:
    """A crop; an image too small for it is continued by mirroring, which keeps it natural."""
    top, left = min(top, max(0, image.shape[2] - height)), min(left, max(0, image.shape[3] - width))
    crop = image[:, :, top : top + height, left : left + width]
    missing = [(0, 0), (0, 0), (0, height - crop.shape[2]), (0, width - crop.shape[3])]
    return np.ascontiguousarray(np.pad(crop, missing, mode="symmetric"))
