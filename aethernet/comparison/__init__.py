"""Comparing every form with the trained network: run, measure, then judge once."""

from __future__ import annotations

from aethernet.comparison.cases import Case, build_cases, telling_cases
from aethernet.comparison.compare import bicubic, compare_form, measure_quality, outputs_of, quality_of, with_agreement
from aethernet.comparison.gate import DEFAULT_LIMITS, TRAINED_INT8_LIMITS, Acceptance, Limits, judge, measurement_table
from aethernet.comparison.measurement import Measurement, Quality, VariantId

__all__ = [
    "DEFAULT_LIMITS",
    "TRAINED_INT8_LIMITS",
    "Acceptance",
    "Case",
    "Limits",
    "Measurement",
    "Quality",
    "VariantId",
    "bicubic",
    "build_cases",
    "compare_form",
    "judge",
    "measure_quality",
    "measurement_table",
    "outputs_of",
    "quality_of",
    "telling_cases",
    "with_agreement",
]
