"""What quantisation-aware training left in a checkpoint, as data; needs no PyTorch.

:mod:`aethernet.quantization.records` makes ranges of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["QuantizationRecords"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationRecords:
    """What quantisation-aware training left beside the weights, by the checkpoint's own names; used by int8 alone."""

    origin: str
    """``qat`` (observers and fake quantisers) or ``converted`` (PyTorch's packed int8 modules)."""
    tensors: dict[str, Tensor] = field(repr=False)
    """Scales, zero-points, ranges and switches; an unused observer holds (+inf, -inf)."""
