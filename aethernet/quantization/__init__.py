"""int8: ranges from records or pictures, weights and activations on one grid, biases corrected.

:mod:`~aethernet.quantization.scheme` says what is quantised and why; :func:`quantize` does it.
"""

from __future__ import annotations

from aethernet.quantization.calibration import Method
from aethernet.quantization.learning import from_finetuning
from aethernet.quantization.post_training import Quantized, TensorRange, quantize
from aethernet.quantization.structure import units_of

__all__ = ["Method", "Quantized", "TensorRange", "from_finetuning", "quantize", "units_of"]
