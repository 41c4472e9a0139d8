"""``aethernet sensitivity``: what quantising each part of a network costs and gains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aethernet.cli.inputs import case_of_size, float_network, images_of, sizes_of
from aethernet.cli.options import AsJson, Chart, ResidualScale, WeightsKey
from aethernet.cli.output import emit_json, print_table, require_png, say, write_chart

if TYPE_CHECKING:
    from rich.table import Table

    from aethernet.quantization.sensitivity import Cost, Sensitivity, UnitTimes

__all__ = ["measure_file", "sensitivity", "sensitivity_table"]


def sensitivity(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of any form.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of images to measure on (default: the library's own two).")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="DB", help="Also choose parts to keep float for this PSNR to float.")
    ] = None,
    time: Annotated[bool, typer.Option(help="Also time every part in ONNX Runtime, fp32 beside int8.")] = True,
    size: Annotated[str, typer.Option(metavar="HxW", help="Input size for times.")] = "256x256",
    threads: Annotated[int, typer.Option(min=0, help="Of ONNX Runtime (default: its own choice).")] = 0,
    chart: Chart = None,
    residual_scale: ResidualScale = None,
    weights: WeightsKey = None,
    as_json: AsJson = False,
) -> None:
    """Measure, part by part, what int8 costs in quality and gains in time."""
    require_png(chart)
    (only,) = sizes_of(size)[:1]
    facts = measure_file(
        checkpoint,
        images=images,
        budget=budget,
        timed=time,
        size=only,
        threads=threads,
        chart=chart,
        residual_scale=residual_scale,
        weights=weights,
    )
    if as_json:
        emit_json(facts)
    else:
        print_table(sensitivity_table(facts))
    if budget is not None:
        kept = ", ".join(facts["kept_float"]) or "none"
        say(f"kept float for {budget:g} dB: {kept}; in a spec: [quantization] budget_db = {budget:g}")


def measure_file(
    source: Path,
    *,
    images: Path | None,
    budget: float | None,
    timed: bool,
    size: tuple[int, int],
    threads: int,
    chart: Path | None,
    residual_scale: float | None,
    weights: str | None = None,
) -> dict[str, Any]:
    """Measure every part of a checkpoint's network; JSON values.

    Raises:
        QuantizationError: The budget cannot be kept.
    """
    from aethernet.benchmark.parts import time_units
    from aethernet.images.files import load_image
    from aethernet.quantization.post_training import calibrate
    from aethernet.quantization.sensitivity import measure_sensitivity
    from aethernet.release.chart import sensitivity_chart

    loaded = float_network(source, residual_scale, weights)
    fused, named_images = loaded.folded, images_of(images)
    say(f"calibrating {source.name} on {', '.join(named_images)}")
    calibrated = calibrate(
        fused,
        images=[load_image(path, loaded.config.in_channels) for path in named_images.values()],
        records=loaded.quantization,
    )
    measured = measure_sensitivity(calibrated, budget_db=budget, progress=lambda part: say(f"measuring {part}"))
    times = None
    if timed:
        say(f"timing fp32 and int8 at {size[0]}x{size[1]}")
        image = case_of_size(named_images, loaded.config.in_channels, size)
        times = time_units(fused, calibrated.network, image, threads=threads)
    if chart is not None:
        write_chart(sensitivity_chart(measured, times), chart)
    return {
        "checkpoint": str(source),
        "network": loaded.config.title,
        "pictures": list(named_images),
        "crops": measured.crops,
        "parts": [_part(measured, times, index) for index in range(len(measured.units))],
        "rewriting": _cost(measured.rewriting),
        "expected": _cost(measured.expected),
        "budget_db": budget,
        "kept_float": list(measured.kept_float),
        "times": None if times is None else _times(times),
    }


def _cost(cost: Cost) -> dict[str, float | None]:
    from aethernet.comparison.measurement import significant

    return {
        "psnr_db": significant(cost.psnr),
        "snr_db": significant(cost.snr),
        "noise": significant(cost.noise),
        "tint": significant(cost.channel_shift),
    }


def _part(measured: Sensitivity, times: UnitTimes | None, index: int) -> dict[str, Any]:
    one = measured.units[index]
    fp32, int8 = times.units[one.unit] if times is not None else (None, None)
    return {
        "part": one.unit,
        **_cost(one.cost),
        "work": round(one.work, 6),
        "fp32_ms": fp32 and round(fp32, 4),
        "int8_ms": int8 and round(int8, 4),
        "kept_float": one.kept_float,
    }


def _times(times: UnitTimes) -> dict[str, Any]:
    return {
        "runtime": "onnxruntime-cpu",
        "shape": list(times.shape),
        "runs": times.runs,
        "threads": times.threads,
        "elsewhere_ms": {"fp32": round(times.elsewhere[0], 4), "int8": round(times.elsewhere[1], 4)},
        "total_ms": {"fp32": round(times.total[0], 4), "int8": round(times.total[1], 4)},
    }


def sensitivity_table(facts: dict[str, Any]) -> Table:
    """The facts of :func:`measure_file` for people, within 80 columns."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("part", no_wrap=True)
    for name in ("PSNR dB", "SNR dB", "tint", "work"):
        table.add_column(name, justify="right", no_wrap=True)
    times = facts["times"]
    for name in ("fp32 ms", "int8 ms", "saved") if times else ():
        table.add_column(name, justify="right", no_wrap=True)

    def row(name: str, cost: dict[str, Any] | None, work: float | None, fp32: Any, int8: Any) -> None:
        cells = ["", "", ""]
        if cost is not None:
            cells = [*(_decibels(cost[key]) for key in ("psnr_db", "snr_db")), f"{cost['tint'] * 255:.2f}"]
        cells.append("" if work is None else f"{work:.1%}")
        if times:
            cells += ["", "", ""] if fp32 is None else [f"{fp32:.2f}", f"{int8:.2f}", f"{fp32 - int8:.2f}"]
        table.add_row(name, *cells)

    for part in facts["parts"]:
        name = part["part"] + (" (float)" if part["kept_float"] else "")
        row(name, part, part["work"], part["fp32_ms"], part["int8_ms"])
    table.add_section()
    row("rewriting alone", facts["rewriting"], None, None, None)
    if times:
        row("everything else", None, None, times["elsewhere_ms"]["fp32"], times["elsewhere_ms"]["int8"])
    total = (times["total_ms"]["fp32"], times["total_ms"]["int8"]) if times else (None, None)
    kept = len(facts["kept_float"])
    row("all parts", None if kept else facts["expected"], None, *total)
    if kept:
        row(f"all but the {kept} in float", facts["expected"], None, None, None)
    return table


def _decibels(value: float | None) -> str:
    return "∞" if value is None else f"{value:.1f}"
