"""Pictures for people: a before/after sheet that shows what the network does, made with Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aethernet.images.files import to_levels

if TYPE_CHECKING:
    from PIL.Image import Image

    from aethernet.images.files import ImageArray

__all__ = ["comparison_sheet", "liveliest_window", "versions_of"]

_GAP, _CAPTION = 8, 22


def liveliest_window(picture: ImageArray, side: int) -> tuple[int, int, int, int]:
    """Top, left, height, width of the window of at most ``side`` pixels with the most detail (mean gradient)."""
    grey = picture[0].mean(axis=0)
    height, width = min(side, grey.shape[0]), min(side, grey.shape[1])
    detail = np.zeros_like(grey)
    detail[:-1] += np.abs(np.diff(grey, axis=0))
    detail[:, :-1] += np.abs(np.diff(grey, axis=1))
    sums = np.pad(detail.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(top), int(left), height, width


def versions_of(
    low: ImageArray, made: Mapping[str, ImageArray], truth: ImageArray | None, scale: int, side: int
) -> list[tuple[str, ImageArray]]:
    """One window of a picture, as everybody enlarges it, as forms do, and as it was: all of one size.

    Args:
        low: [1, C, H, W].
        made: Caption -> [1, C, s*H, s*W].
        truth: The original, [1, C, s*H, s*W], where there is one.
        scale: s.
        side: Largest side of the window in pixels of ``low``; it lies where the detail is.

    Returns:
        (caption, [1, C, s*h, s*w]): nearest, bicubic, what was made, original.
    """
    from aethernet.comparison import bicubic

    top, left, height, width = liveliest_window(low, side)
    window = np.s_[:, :, top * scale : (top + height) * scale, left * scale : (left + width) * scale]
    versions = {"nearest": low.repeat(scale, axis=2).repeat(scale, axis=3), "bicubic": bicubic(low, scale), **made}
    if truth is not None:
        versions["original"] = truth
    return [(caption, picture[window]) for caption, picture in versions.items()]


def comparison_sheet(rows: Sequence[Sequence[tuple[str, ImageArray]]], zoom: int = 1) -> Image:
    """One row per picture, one captioned column per version; all pictures of a row have one size.

    Args:
        rows: (caption, [1, C, H, W]) per cell.
        zoom: Every pixel is drawn as zoom x zoom.
    """
    from PIL import Image, ImageDraw, ImageFont

    cells = [[(caption, _image(picture, zoom)) for caption, picture in row] for row in rows]
    width = max(sum(image.width + _GAP for _, image in row) for row in cells) + _GAP
    height = sum(max(image.height for _, image in row) + _CAPTION + _GAP for row in cells) + _GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    top = _GAP
    for row in cells:
        left = _GAP
        for caption, image in row:
            draw.text((left, top + 2), caption, fill="black", font=font)
            sheet.paste(image, (left, top + _CAPTION))
            left += image.width + _GAP
        top += max(image.height for _, image in row) + _CAPTION + _GAP
    return sheet


def _image(picture: ImageArray, zoom: int) -> Image:
    from PIL import Image

    levels = to_levels(picture)[0].transpose(1, 2, 0)
    image = Image.fromarray(levels.squeeze(-1) if levels.shape[-1] == 1 else levels).convert("RGB")
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
