"""What tiles cost: an image cut as programs cut it, with a fixed margin that may be narrower than the network looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from aethernet.images.files import to_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aethernet.images.files import ImageArray
    from aethernet.runtimes.protocol import Runtime

__all__ = ["SeamFacts", "in_tiles", "measure_seams"]


class SeamFacts(BaseModel):
    """How far an image in tiles is from the whole one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile: int = Field(description="Side of a tile in pixels of the input, without its margin")
    margin: int = Field(description="Pixels around it")
    image: tuple[int, int] = Field(description="Height and width of the input")
    largest_level: int = Field(description="Largest difference to the whole image, in levels of 255")
    mean_level: float = Field(description="Mean difference, in levels of 255")


def in_tiles(runtime: Runtime, image: ImageArray, *, scale: int, tile: int, margin: int) -> ImageArray:
    """The output as realesrgan-ncnn-vulkan and its descendants put it together.

    Every tile is given with ``margin`` more pixels on each side, the image mirrored beyond its edges; of the
    output the margin is cut off (``realesrgan_preproc.comp`` and ``realesrgan.cpp`` there).

    Args:
        runtime: Open.
        image: [1, C, H, W] float32 in [0, 1].
        scale: Output size over input size.
        tile: Side of a tile in pixels, without its margin.
        margin: Pixels around it.
    """
    height, width = image.shape[2:]
    around = ((0, 0), (0, 0), (margin, margin), (margin, margin))
    wide = np.pad(image, around, mode="reflect")
    rows = []
    for top in range(0, height, tile):
        row = []
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            part = wide[:, :, top : bottom + 2 * margin, left : right + 2 * margin]
            output = runtime.infer(np.ascontiguousarray(part))
            cut = margin * scale
            row.append(output[:, :, cut : cut + (bottom - top) * scale, cut : cut + (right - left) * scale])
        rows.append(np.concatenate(row, axis=3))
    return np.concatenate(rows, axis=2)


def measure_seams(
    runtime: Runtime, image: ImageArray, *, scale: int, tiles: Sequence[int], margin: int
) -> list[SeamFacts]:
    """The image in tiles of each size against the same image in one, all continued beyond its edges."""
    if not tiles:
        return []
    whole = to_levels(in_tiles(runtime, image, scale=scale, tile=max(image.shape[2:]), margin=margin))
    return [
        _seams(whole, in_tiles(runtime, image, scale=scale, tile=tile, margin=margin), image, tile, margin)
        for tile in tiles
    ]


def _seams(whole: NDArray[np.uint8], tiled: ImageArray, image: ImageArray, tile: int, margin: int) -> SeamFacts:
    difference = np.abs(to_levels(tiled).astype(np.int16) - whole)
    return SeamFacts(
        tile=tile,
        margin=margin,
        image=(image.shape[2], image.shape[3]),
        largest_level=int(difference.max()),
        mean_level=float(f"{difference.mean():.3g}"),
    )
