"""Where ranges come from when pictures decide: every tensor is watched, in constant memory, and gets the range that
costs it least.

Two passes over the pictures: the first finds each tensor's extremes, the second fills a histogram between them. From
the histogram follow three ranges per tensor (extremes, a percentile, the one with the least mean square error) and the
error each causes; the smallest wins. Background: Krishnamoorthi 2018 (arXiv:1806.08342), Wu et al. 2020
(arXiv:2004.09602).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from aethernet.errors import CalibrationError
from aethernet.quantization.scheme import ACTIVATION_MAX, ACTIVATION_MIN, activation_scale

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = [
    "PERCENTILE",
    "Method",
    "RangeChoice",
    "TensorHistogram",
    "as_input",
    "choose_range",
    "crops_of",
    "rounding_noise",
    "watch",
]

PERCENTILE = 99.99
_BINS = 4096
_SHRINKS = np.linspace(0.3, 1.0, 71)


class Method(StrEnum):
    """How a range follows from what was seen."""

    BEST = "best"
    """Per tensor the one of the others with the smallest measured error."""
    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHistogram:
    """How often values of one tensor fall into equal bins between its extremes."""

    low: float
    high: float
    counts: np.ndarray
    """[B], float64."""

    @property
    def centres(self) -> np.ndarray:
        """Middle of every bin, [B]."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        centres: np.ndarray = (edges[:-1] + edges[1:]) / 2
        return centres


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeChoice:
    """A range and how it came about."""

    scale: float
    method: Method
    noise: float
    """Power of the rounding error over power of the signal."""


def watch(
    network: nn.Module,
    points: Mapping[str, nn.Module],
    pictures: Iterable[ImageArray],
    gates: Mapping[str, nn.Module] | None = None,
) -> dict[str, TensorHistogram]:
    """Histograms of what goes into each of ``points`` while ``network`` runs over the pictures, twice.

    Args:
        network: In evaluation mode.
        points: Name -> module whose input is watched.
        pictures: [N, C, H, W] float32 in [0, 1]; iterated twice, one at a time.
        gates: Name of a point -> module, run before, by the sigmoid of whose output the watched values are multiplied
            later. Values count by the square of that sigmoid, as their rounding errors do.

    Raises:
        CalibrationError: There are no pictures, or a value is not finite.
    """
    extremes = dict.fromkeys(points, (np.inf, -np.inf))

    def extend(name: str, values: Tensor) -> None:
        low, high = (float(value) for value in torch.aminmax(values))
        # Unlike min() and max(), these keep a NaN.
        extremes[name] = (float(np.minimum(extremes[name][0], low)), float(np.maximum(extremes[name][1], high)))

    ran = _run(network, points, pictures, extend)
    if not ran:
        raise CalibrationError("expected pictures to calibrate on, found none")
    broken = [name for name, (low, high) in extremes.items() if not np.isfinite([low, high]).all()]
    if broken:
        raise CalibrationError(f"expected finite activations, found NaN or infinity in {', '.join(broken[:3])}")
    counts = {name: torch.zeros(_BINS, dtype=torch.float64) for name in points}

    gates = gates or {}
    weights: dict[str, Tensor] = {}

    def count(name: str, values: Tensor) -> None:
        low, high = extremes[name]
        high = high if high > low else low + 1
        if name in weights:
            bins = ((values.float() - low) * (_BINS / (high - low))).long().clamp(0, _BINS - 1)
            counts[name] += torch.bincount(bins.flatten(), weights[name].flatten().double(), _BINS)
        else:
            counts[name] += torch.histc(values.float(), _BINS, low, high).double()

    def weigh(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: weights.update({name: torch.sigmoid(output) ** 2})

    handles = [gate.register_forward_hook(weigh(name)) for name, gate in gates.items() if name in points]
    try:
        _run(network, points, pictures, count)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: TensorHistogram(low=low, high=high if high > low else low + 1, counts=counts[name].numpy())
        for name, (low, high) in extremes.items()
    }


def as_input(picture: ImageArray) -> Tensor:
    """[N, C, H, W] as a tensor, channels last in memory, which is what PyTorch is fast for."""
    return torch.from_numpy(picture).to(memory_format=torch.channels_last)


def _run(
    network: nn.Module,
    points: Mapping[str, nn.Module],
    pictures: Iterable[ImageArray],
    record: Callable[[str, Tensor], None],
) -> int:
    number = 0
    with _hooked(points, record), torch.inference_mode():
        for picture in pictures:
            network(as_input(picture))
            number += 1
    return number


@contextmanager
def _hooked(points: Mapping[str, nn.Module], record: Callable[[str, Tensor], None]) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: record(name, inputs[0].detach())

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in points.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def choose_range(seen: TensorHistogram, method: Method = Method.BEST) -> RangeChoice:
    """The range for one tensor."""
    widest = activation_scale(seen.low, seen.high)
    scales = {
        Method.MIN_MAX: [widest],
        Method.PERCENTILE: [_percentile_scale(seen)],
        Method.ERROR: [widest * float(shrink) for shrink in _SHRINKS],
    }
    wanted = list(scales) if method is Method.BEST else [method]
    candidates = [
        RangeChoice(scale=scale, method=one, noise=rounding_noise(seen, scale))
        for one in wanted
        for scale in (activation_scale(0.0, wide * ACTIVATION_MAX) for wide in scales[one])
    ]
    return min(candidates, key=lambda choice: choice.noise)


def _percentile_scale(seen: TensorHistogram) -> float:
    order = np.argsort(np.abs(seen.centres))
    share = np.cumsum(seen.counts[order]) / max(seen.counts.sum(), 1)
    kept = seen.centres[order][: int(np.searchsorted(share, PERCENTILE / 100)) + 1]
    return activation_scale(float(kept.min(initial=0)), float(kept.max(initial=0)))


def rounding_noise(seen: TensorHistogram, scale: float) -> float:
    """Power of what rounding to the grid changes, over the power of the tensor itself."""
    x = seen.centres
    rounded = np.clip(np.rint(x / scale), ACTIVATION_MIN, ACTIVATION_MAX) * scale
    # Within a bin values are spread evenly, which matters where bins are wider than steps are.
    spread = ((seen.high - seen.low) / len(x)) ** 2 / 12
    power = float((seen.counts * x**2).sum()) or 1.0
    return float((seen.counts * ((x - rounded) ** 2 + min(spread, scale**2 / 12))).sum()) / power


def crops_of(pictures: Iterable[ImageArray], side: int, each: int, seed: int = 0) -> list[ImageArray]:
    """Up to ``each`` crops of at most ``side`` x ``side`` from every picture, the same for the same seed.

    Args:
        pictures: [1, C, H, W] float32 in [0, 1].
        side: Pixels.
        each: Crops per picture.
        seed: Of the places.
    """
    places = np.random.default_rng(seed)
    crops = []
    for picture in pictures:
        height, width = picture.shape[2:]
        number = 1 if max(height, width) <= side else each
        for _ in range(number):
            top, left = (int(places.integers(0, max(1, extent - side + 1))) for extent in (height, width))
            crops.append(np.ascontiguousarray(picture[:, :, top : top + side, left : left + side]))
    return crops
