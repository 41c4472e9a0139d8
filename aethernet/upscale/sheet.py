"""What upscaling did to images, for people: nearest, bicubic, ours and the original side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.artifact import atomic_path
from aethernet.errors import ImageError
from aethernet.images.files import to_levels
from aethernet.release.sheet import comparison_sheet, liveliest_window
from aethernet.upscale.files import is_video
from aethernet.upscale.reading import read_still

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["write_sheet"]

_CROP, _ZOOM, _ROWS = 72, 2, 6


def write_sheet(path: Path, results: Sequence[Mapping[str, Any]], originals: Mapping[str, Path], scale: int) -> None:
    """Draw the liveliest part of each of the first six images as a PNG file.

    Args:
        path: The file.
        results: Of :func:`aethernet.upscale.files.upscale_files`; videos and failures are left out.
        originals: Stem of an image -> its original in high resolution, where there is one.
        scale: By which the images were enlarged.

    Raises:
        ImageError: An original has another size than the result, or there is no image to draw.
    """
    rows = []
    made = [one for one in results if "error" not in one and not is_video(Path(one["source"]))]
    for result in made[:_ROWS]:
        low, ours = (_shown(read_still(result[key])) for key in ("source", "destination"))
        top, left, height, width = liveliest_window(low, _CROP)
        crop = low[..., top : top + height, left : left + width]
        window = (
            ...,
            slice(top * scale, (top + height) * scale),
            slice(left * scale, (left + width) * scale),
        )
        row = [
            (f"nearest: {Path(result['source']).name}", crop.repeat(scale, axis=2).repeat(scale, axis=3)),
            ("bicubic", _bicubic(low, scale, (top, left, height, width))),
            ("this network", ours[window]),
        ]
        if (original := originals.get(Path(result["source"]).stem)) is not None:
            high = _shown(read_still(original))
            if high.shape != ours.shape:
                raise ImageError(
                    f"expected an original of {ours.shape[3]}x{ours.shape[2]} pixels, found {high.shape[3]}x"
                    f"{high.shape[2]}: {original}"
                )
            row.append(("original", high[window]))
        rows.append(row)
    if not rows:
        raise ImageError("expected at least one upscaled image for the sheet, found none")
    with atomic_path(path) as temporary:
        comparison_sheet(rows, _ZOOM).save(temporary, format="PNG")


def _shown(still: Any) -> ImageArray:
    """[1, 3, H, W] float32 in [0, 1]; transparency is not shown."""
    colour = still.as_rgb().colour
    levels = colour.astype(np.float32) / np.iinfo(colour.dtype).max
    planes: ImageArray = np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3)).transpose(2, 0, 1)[None])
    return planes


def _bicubic(low: ImageArray, scale: int, window: tuple[int, int, int, int]) -> ImageArray:
    from PIL import Image

    top, left, height, width = window
    image = Image.fromarray(to_levels(low)[0].transpose(1, 2, 0))
    enlarged = image.resize(
        (width * scale, height * scale), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
    )
    levels: ImageArray = np.asarray(enlarged, dtype=np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    return levels
