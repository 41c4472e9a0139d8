"""What arguments of several commands name: networks, whole releases, images, sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aethernet.errors import BundleError, UsageError

if TYPE_CHECKING:
    from aethernet.checkpoint import LoadedNetwork
    from aethernet.images.files import ImageArray
    from aethernet.release.bundle import Bundle

__all__ = ["case_of_size", "cases_of", "float_network", "images_of", "numbers_of", "sizes_of", "whole_bundle"]


def float_network(source: Path, residual_scale: float | None, weights: str | None = None) -> LoadedNetwork:
    """The network of a checkpoint file that can be folded and exported.

    Raises:
        UsageError: It holds the int8 form.
    """
    from aethernet.checkpoint import load

    loaded = load(source, residual_scale=residual_scale, weights=weights)
    if loaded.int8:
        raise UsageError(
            f"expected a float network, found the int8 form in {source.name}",
            hint="start from the fp32 or notfused file beside it",
        )
    return loaded


def whole_bundle(path: Path) -> Bundle:
    """A release folder whose every file is as released.

    Raises:
        BundleError: It is not.
    """
    from aethernet.release.bundle import open_bundle
    from aethernet.release.verification import verify_bundle

    broken = verify_bundle(path, run=False).problems
    if broken:
        raise BundleError(f"{path} is not what was released: {'; '.join(broken)}")
    return open_bundle(path)


def images_of(images: Path | None) -> dict[str, Path]:
    """Name -> image in a folder, or the library's own two."""
    from aethernet.images.files import list_images, sample_images

    return {path.stem: path for path in (sample_images() if images is None else list_images(images))}


def cases_of(images: Mapping[str, Path], channels: int, static: tuple[int, int] | None) -> list[Any]:
    """Test inputs from images (:func:`aethernet.comparison.build_cases`)."""
    from aethernet.comparison import build_cases

    return build_cases(images, channels, static=static)


def case_of_size(images: Mapping[str, Path], channels: int, size: tuple[int, int]) -> ImageArray:
    """The first image cut, or continued by mirroring, to (H, W) pixels: [1, C, H, W]."""
    name = next(iter(images))
    image: ImageArray = cases_of({name: images[name]}, channels, size)[0].input
    return image


def sizes_of(text: str) -> list[tuple[int, int]]:
    """``256x256,720x1280`` -> (H, W) of each."""
    sizes = [numbers_of(part.strip(), 2, "sizes HxW, separated by commas") for part in text.split(",")]
    if any(min(size) < 1 for size in sizes):
        raise UsageError(f"expected positive sizes, found '{text}'")
    return [(height, width) for height, width in dict.fromkeys(sizes)]


def numbers_of(text: str, count: int, what: str) -> tuple[int, ...]:
    """``4x1080x1920`` -> the numbers, which have to be ``count``.

    Raises:
        UsageError: Something else; the message says ``what`` was expected.
    """
    if not re.fullmatch(r"\d{1,6}(x\d{1,6})" + "{" + str(count - 1) + "}", text):
        raise UsageError(f"expected {what}, such as {'x'.join(['64'] * count)}, found '{text}'")
    return tuple(int(part) for part in text.split("x"))
