"""The numbers a comparison yields. They are kept whatever they are; :mod:`aethernet.comparison.gate` judges them."""

from __future__ import annotations

import math

from pydantic import Field

from aethernet.precision import Precision
from aethernet.records import Record

__all__ = ["Measurement", "Quality", "VariantId", "significant"]


def significant(value: float | None) -> float | None:
    """Six significant digits: enough to judge by, few enough to print; None for what is no number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


class VariantId(Record):
    """One deployable form."""

    precision: Precision
    file: str = Field(description="File name in the release")
    runtime: str = Field(description="What ran it, such as onnxruntime-cpu")

    def __str__(self) -> str:
        return f"{self.precision.value} {self.file} ({self.runtime})"


class Measurement(Record):
    """One form against the training-form float32 network on one input. Differences are form minus reference."""

    form: VariantId
    case: str = Field(description="Which input, by image and size")
    image: str
    shape: tuple[int, int, int] = Field(description="N, H, W of the input in pixels")
    problem: str | None = Field(default=None, description="Why nothing could be measured, such as a wrong output shape")
    finite: bool = Field(default=False, description="Whether every output value is a number")
    reference_range: float | None = Field(
        default=None, description="Largest minus smallest value of the reference output"
    )
    max_abs: float | None = Field(default=None, description="Largest absolute difference, raw outputs")
    mean_abs: float | None = Field(default=None, description="Mean absolute difference, raw outputs")
    signed_mean: tuple[float | None, ...] = Field(
        default=(), description="Mean difference per channel, clipped to [0, 1]"
    )
    psnr: float | None = Field(default=None, description="dB, peak 1.0, clipped; null when identical")
    ssim: float | None = Field(default=None, description="Clipped; null when a side is under 11 pixels")
    levels_equal: float | None = Field(default=None, description="Share of 8-bit values that agree")
    levels_off_by_1: float | None = None
    levels_off_by_2_or_more: float | None = None
    levels_largest: int | None = Field(default=None, description="Largest difference in 8-bit levels")
    agreement: float | None = Field(
        default=None, description="Share of 8-bit values within one level of the precision's first file"
    )


class Quality(Record):
    """One form, or the reference or plain bicubic, against the high-resolution image; 8-bit rounded."""

    form: str = Field(description="A form, 'reference' (training form, float32) or 'bicubic' (Pillow)")
    precision: Precision | None = None
    image: str
    psnr_rgb: float | None = Field(description="dB, all channels, no border crop")
    ssim_rgb: float | None
    psnr_y: float | None = Field(description="dB, BT.601 Y, border crop of `border` pixels")
    ssim_y: float | None
    border: int = Field(description="Pixels cut off every side for the Y values")
