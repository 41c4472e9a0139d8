"""The only gate: it judges every form, every image and every size at once and shows the whole table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from aethernet.comparison.measurement import Measurement, Quality
from aethernet.errors import GateError
from aethernet.precision import Precision

__all__ = [
    "DEFAULT_LIMITS",
    "TRAINED_INT8_LIMITS",
    "Acceptance",
    "Limits",
    "failures_of",
    "judge",
    "measurement_table",
]


class Limits(BaseModel):
    """What a form must keep; None switches a limit off. A form must also be finite and have the right shape, always."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_abs_of_range: float | None = Field(
        default=None, gt=0, description="Largest raw difference, as a share of the reference's range on that input"
    )
    max_reference_range: float | None = Field(
        default=None, gt=0, description="Largest less smallest value the reference itself may give; images span 1"
    )
    min_psnr: float | None = Field(default=None, gt=0, description="dB against the reference")
    max_level: int | None = Field(default=None, ge=0, description="No 8-bit value may be off by more levels than this")
    max_signed_mean: float | None = Field(
        default=None,
        gt=0,
        description="Mean shift of any channel (its channel shift), in units of the image's range [0, 1]",
    )
    max_hr_loss: float | None = Field(
        default=None, gt=0, description="dB of PSNR (RGB) against HR a form may lose to the reference on any image"
    )
    min_agreement: float | None = Field(
        default=None, gt=0, le=1, description="Share of 8-bit values within one level of the precision's first file"
    )
    min_speedup: float | None = Field(
        default=None, gt=0, description="Times faster than fp32 in ONNX Runtime, by processor time on one thread"
    )


DEFAULT_LIMITS: Mapping[Precision, Limits] = {
    # Networks for images span about 1.5; one that spans a hundred diverges, and to follow it there is no merit.
    Precision.FP32: Limits(max_abs_of_range=1e-4, max_reference_range=100, min_psnr=80, max_hr_loss=0.01),
    Precision.FP16: Limits(max_level=2, min_psnr=60, max_hr_loss=0.05),
    Precision.INT8: Limits(
        min_psnr=42, max_signed_mean=0.5 / 255, max_hr_loss=0.30, min_agreement=0.999, min_speedup=1.1
    ),
}

TRAINED_INT8_LIMITS = DEFAULT_LIMITS[Precision.INT8].model_copy(update={"max_hr_loss": 0.15})
"""For networks trained with quantisation in mind."""

NCNN_LIMITS: Mapping[str, Limits] = {
    # Kernels in fp16, arithmetic in fp32: what the fp16 form keeps (measured: 77 to 139 dB, one level at most).
    "ncnn-cpu": DEFAULT_LIMITS[Precision.FP16],
    # The programs of this family also add up in fp16, over hundreds of products per value, which the fp16 form does
    # nowhere; measured on real images with Mesa's software driver: 57.8 to 61.7 dB, three levels at most.
    "ncnn-vulkan": Limits(max_level=4, min_psnr=54, max_signed_mean=0.5 / 255),
}
"""Runtime -> what the ncnn files must keep there, whatever precision their kernels are stored in."""

NOISE_SIDE, SMALL_INPUT_ALLOWANCE = 16, 10.0
"""int8 rounds at random, and the mean square of a few pixels' noise is a matter of luck: inputs with a side below
this many pixels may have this many dB less, and their files need not agree on a share of those pixels."""

CHANNEL_SHIFT_SIDE = 32
"""Inputs whose smaller side has fewer pixels show no channel shift: their means are those of a few pixels' rounding."""


class Acceptance(BaseModel):
    """What the gate decided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accepted: tuple[Precision, ...]
    skipped: dict[Precision, str] = Field(description="Precision -> why it is left out")


def failures_of(measurement: Measurement, limits: Limits) -> list[str]:
    """Every limit one measurement misses, in words; empty when it passes."""
    if measurement.problem is not None:
        return [measurement.problem]
    if not measurement.finite:
        return ["the output holds NaN or infinity"]
    missed = []
    spanned = measurement.reference_range or 0.0
    if limits.max_reference_range is not None and not spanned <= limits.max_reference_range:
        missed.append(f"the trained network itself diverges: it spans {spanned:.3g} > {limits.max_reference_range:g}")
    if limits.max_abs_of_range is not None and measurement.max_abs is not None:
        allowed = limits.max_abs_of_range * (measurement.reference_range or 1.0)
        if not measurement.max_abs <= allowed:
            missed.append(f"largest difference {measurement.max_abs:.3g} > {allowed:.3g}")
    least = limits.min_psnr
    if least is not None and measurement.form.precision is Precision.INT8 and min(measurement.shape[1:]) < NOISE_SIDE:
        least -= SMALL_INPUT_ALLOWANCE
    if least is not None and measurement.psnr is not None and not measurement.psnr >= least:
        missed.append(f"PSNR {measurement.psnr:.2f} dB < {least:g} dB")
    if limits.max_level is not None and not (measurement.levels_largest or 0) <= limits.max_level:
        missed.append(f"off by {measurement.levels_largest} levels > {limits.max_level}")
    agreement = measurement.agreement if min(measurement.shape[1:]) >= NOISE_SIDE else None
    if limits.min_agreement is not None and agreement is not None and not agreement >= limits.min_agreement:
        missed.append(f"agrees with its sibling on {agreement:.4%} < {limits.min_agreement:.4%}")
    if limits.max_signed_mean is not None and min(measurement.shape[1:]) >= CHANNEL_SHIFT_SIDE:
        worst = max((abs(value) for value in measurement.signed_mean if value is not None), default=0.0)
        if not worst <= limits.max_signed_mean:
            missed.append(f"channel shift {worst * 255:.3f} levels > {limits.max_signed_mean * 255:.3f}")
    return missed


def limits_for(measurement: Measurement, limits: Mapping[Precision, Limits]) -> Limits:
    """What one measurement must keep: by its runtime where that has limits of its own, else by its precision."""
    own = NCNN_LIMITS.get(measurement.form.runtime)
    if own is None:
        return limits.get(measurement.form.precision, Limits())
    # The mean square of a few pixels' rounding is a matter of luck; the largest level is held for every size.
    return own if min(measurement.shape[1:]) >= NOISE_SIDE else own.model_copy(update={"min_psnr": None})


def judge(
    measurements: Sequence[Measurement],
    quality: Sequence[Quality],
    limits: Mapping[Precision, Limits],
    *,
    required: Iterable[Precision],
    not_made: Mapping[Precision, str] | None = None,
    speedups: Mapping[Precision, float] | None = None,
) -> Acceptance:
    """Decide which precisions are released.

    Args:
        measurements: Of all forms, on all cases.
        quality: Of all forms and of ``reference`` against HR images, where there are any.
        limits: Per precision.
        required: Precisions that must pass or the release fails; fp32 always is.
        not_made: Precision -> why there is no such form.
        speedups: Precision -> times faster than fp32, where it was measured.

    Raises:
        GateError: A required precision is missing or misses a limit; its ``table`` holds everything.
    """
    must = {Precision.FP32, *required}
    reasons: dict[Precision, list[str]] = {precision: [reason] for precision, reason in (not_made or {}).items()}
    measured = {measurement.form.precision for measurement in measurements}
    for precision in sorted(must - measured - set(reasons)):
        reasons[precision] = ["no form of it was compared"]
    for measurement in measurements:
        precision = measurement.form.precision
        for failure in failures_of(measurement, limits_for(measurement, limits)):
            reasons.setdefault(precision, []).append(f"{measurement.form.file} on {measurement.case}: {failure}")
    reference = {entry.image: entry.psnr_rgb for entry in quality if entry.form == "reference"}
    for entry in quality:
        if entry.precision is None:
            continue
        loss = _loss(entry, reference)
        allowed = limits.get(entry.precision, Limits()).max_hr_loss
        if allowed is not None and loss is not None and not loss <= allowed:
            text = f"{entry.form} on {entry.image}: loses {loss:.3f} dB against HR > {allowed:g} dB"
            reasons.setdefault(entry.precision, []).append(text)
    for precision, ratio in (speedups or {}).items():
        least = limits.get(precision, Limits()).min_speedup
        if least is not None and not ratio >= least:
            reasons.setdefault(precision, []).append(f"runs {ratio:.2f} times as fast as fp32 < {least:g} times")
    failed = sorted(must & reasons.keys())
    table = measurement_table(measurements, quality, limits)
    if failed:
        lines = [f"{precision.value}: {reason}" for precision in failed for reason in reasons[precision]]
        raise GateError(
            f"{', '.join(precision.value for precision in failed)} must pass and did not: "
            + "; ".join(lines[:6])
            + (f"; and {len(lines) - 6} more" if len(lines) > 6 else ""),
            table,
        )
    accepted = tuple(precision for precision in Precision if precision in measured and precision not in reasons)
    return Acceptance(
        accepted=accepted, skipped={precision: "; ".join(texts) for precision, texts in sorted(reasons.items())}
    )


def _loss(entry: Quality, reference: Mapping[str, float | None]) -> float | None:
    before = reference.get(entry.image)
    return None if before is None or entry.psnr_rgb is None else before - entry.psnr_rgb


def measurement_table(
    measurements: Sequence[Measurement], quality: Sequence[Quality], limits: Mapping[Precision, Limits]
) -> str:
    """Every number in one Markdown table per question; failures are spelled out in the last column."""
    lines = [
        "| form | input | max abs | mean abs | shift (levels) | PSNR dB | SSIM | 8-bit equal / 1 / 2+ | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for item in measurements:
        missed = failures_of(item, limits_for(item, limits))
        shift = max((value * 255 for value in item.signed_mean if value is not None), key=abs, default=None)
        shares = (item.levels_equal, item.levels_off_by_1, item.levels_off_by_2_or_more)
        lines.append(
            f"| {item.form} | {item.case} | {_show(item.max_abs, '.2e')} "
            f"| {_show(item.mean_abs, '.2e')} | {_show(shift, '+.3f')} "
            f"| {_show(item.psnr, '.2f', 'identical' if item.finite else '–')} | {_show(item.ssim, '.5f')} "
            f"| {' / '.join(_show(share, '.4f') for share in shares)} | {'; '.join(missed) or 'passes'} |"
        )
    if quality:
        lines += [
            "",
            "| against HR | image | PSNR RGB dB | SSIM RGB | PSNR Y dB | SSIM Y | border |",
            "|---|---|---|---|---|---|---|",
        ]
        for entry in quality:
            lines.append(
                f"| {entry.form} | {entry.image} | {_show(entry.psnr_rgb, '.2f')} | {_show(entry.ssim_rgb, '.4f')} "
                f"| {_show(entry.psnr_y, '.2f')} | {_show(entry.ssim_y, '.4f')} | {entry.border} |"
            )
    return "\n".join(lines)


def _show(value: float | None, form: str, missing: str = "–") -> str:
    return missing if value is None else format(value, form)
