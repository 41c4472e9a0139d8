"""The numeric types a release comes in."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Precision"]


class Precision(StrEnum):
    """Arithmetic of a deployed form."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
