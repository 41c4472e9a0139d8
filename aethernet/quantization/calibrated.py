"""A network with a grid for every tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray
    from aethernet.networks.network import Network

__all__ = ["Calibrated", "TensorRange"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRange:
    """How one activation is quantised, and why so."""

    name: str
    scale: float
    source: str
    """``records: MODULE``, ``pictures: METHOD``, ``derived`` or ``learned``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A network with a grid for every tensor, before biases are corrected and weights are put on theirs for good."""

    network: Network = field(repr=False)
    """Quantisers in place and switched on, weights still exact."""
    fused: Network = field(repr=False)
    """The float network it was made from, channels equalised: the same picture."""
    crops: tuple[ImageArray, ...] = field(repr=False)
    """What was looked at, each [1, C, H, W]."""
    slope: float | None
    slopes: dict[str, float]
    """Unit -> slope folded into its gate."""
    tensors: tuple[TensorRange, ...]
