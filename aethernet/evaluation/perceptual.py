"""LPIPS and DISTS: distances between features of a network trained to see, 0 for equal pictures, lower is better.

- LPIPS: Zhang et al. 2018, arXiv:1801.03924, version 0.1 on AlexNet, the variant papers report as a distance.
- DISTS: Ding et al. 2020, arXiv:2004.07728.

Both are pyiqa's, which fetches their weights when first used.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aethernet.errors import AethernetError, MissingDependencyError, UsageError
from aethernet.images.files import to_levels

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["PERCEPTUAL", "SMALLEST", "PerceptualMetric", "perceptual_metrics"]

PERCEPTUAL = ("lpips", "dists")
SMALLEST = 64
"""Least side in pixels: their networks shrink a picture by up to 32."""

PerceptualMetric = Callable[["ImageArray", "ImageArray"], float | None]
"""(output, original), each [1, C, H, W] in [0, 1] -> distance; None where a side is shorter than :data:`SMALLEST`."""


def perceptual_metrics(names: Sequence[str]) -> dict[str, PerceptualMetric]:
    """The measures of these names, ready to use on the CPU.

    Raises:
        UsageError: There is no such measure.
        MissingDependencyError: pyiqa is not installed.
        AethernetError: Its weights are not here and cannot be fetched.
    """
    if unknown := [name for name in names if name not in PERCEPTUAL]:
        raise UsageError(f"expected {' or '.join(PERCEPTUAL)}, found {', '.join(unknown)}")
    if not names:
        return {}
    with _tamed():
        try:
            import pyiqa
        except ImportError as error:
            raise MissingDependencyError("pyiqa", "perceptual") from error
        return {name: _metric(pyiqa, name) for name in names}


def _metric(pyiqa: object, name: str) -> PerceptualMetric:
    import torch

    try:
        network = pyiqa.create_metric(name, device="cpu")  # type: ignore[attr-defined]
    except Exception as error:  # URLError, a broken file, a full disk: it fetches, writes and reads
        raise AethernetError(
            f"the weights of {name} are not on this machine and could not be fetched: {error}",
            hint="run once with a network connection; pyiqa keeps them in its cache folder",
        ) from error

    def measure(output: ImageArray, truth: ImageArray) -> float | None:
        if min(truth.shape[2:]) < SMALLEST:
            return None
        pair = [torch.from_numpy(_coloured(picture)) for picture in (output, truth)]
        with torch.inference_mode():
            return float(network(*pair))

    return measure


def _coloured(picture: ImageArray) -> ImageArray:
    """Rounded to 8 bits like all that is measured; grey in three channels."""
    levels = to_levels(picture).astype(np.float32) / np.float32(255)
    return np.repeat(levels, 3, axis=1) if levels.shape[1] == 1 else levels


@contextlib.contextmanager
def _tamed() -> Iterator[None]:
    """Its files hold numbers only, whatever it asks PyTorch for; what it prints does not belong on our stdout."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
