"""Tensors as a file describes them, their numbers left where they lie; needs no PyTorch.

What looks at names, shapes and single values alone (:mod:`~aethernet.checkpoint.wrappers`,
:mod:`~aethernet.checkpoint.layout`) takes these and PyTorch's own alike.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeGuard

    import numpy as np
    from torch import Tensor

__all__ = ["ITEM_SIZE", "StoredTensor", "is_tensor"]

ITEM_SIZE = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""PyTorch's name of a type -> bytes of one number; the types that are described, all others are PyTorch's to read."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StoredTensor:
    """One tensor of a file, with as much of PyTorch's interface as reading a layout takes."""

    shape: tuple[int, ...]
    dtype: str
    """One of :data:`ITEM_SIZE`."""
    data: memoryview = field(repr=False)
    """Its numbers, little-endian; densely packed, in any order of the dimensions."""

    is_meta = False
    is_quantized = False
    layout = "torch.strided"

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def is_floating_point(self) -> bool:
        """Whether it holds floating-point numbers."""
        return "float" in self.dtype

    def detach(self) -> StoredTensor:
        """Itself."""
        return self

    def item(self) -> Any:
        """Its only number.

        Raises:
            ValueError: It has several, or none.
        """
        return self._numbers().item()

    def fits_float32(self) -> bool:
        """Whether every number is finite, also as float32."""
        import numpy as np

        if self.dtype == "bfloat16":
            bits = np.frombuffer(self.data, "<u2")
            return bool(((bits & 0x7F80) != 0x7F80).all())  # all ones in the exponent: infinite, or no number
        with np.errstate(over="ignore"):
            numbers = self._numbers()
            return bool(np.isfinite(numbers.astype("<f4") if self.dtype == "float64" else numbers).all())

    def _numbers(self) -> np.ndarray[Any, Any]:
        import numpy as np

        if self.dtype == "bfloat16":
            return (np.frombuffer(self.data, "<u2").astype("<u4") << 16).view("<f4")
        return np.frombuffer(self.data, np.dtype(self.dtype).newbyteorder("<"))


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a tensor, PyTorch's or a described one; PyTorch is not loaded to find out."""
    torch = sys.modules.get("torch")
    return isinstance(value, StoredTensor) or (torch is not None and isinstance(value, torch.Tensor))
