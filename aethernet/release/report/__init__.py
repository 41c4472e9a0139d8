"""``report.html``: the release at a glance, one page that asks for nothing from outside.

Rendered from ``release.json``, ``build.json`` and a few windows of validation pictures. A browser computes what depends
on what is looked at (the error heat map); everything else stands in the page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aethernet.release.report.charts import Point, bars, scatter
from aethernet.release.summary import fill_template, mean_quality, quality_rows, worst_measurements

if TYPE_CHECKING:
    from aethernet.release.manifest import BuildRecord, Manifest

__all__ = ["Piece", "render_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A window of one picture."""

    name: str
    versions: Sequence[tuple[str, Path]]
    """Caption -> picture file, all of one size."""


def render_report(manifest: Manifest, build: BuildRecord, pieces: Sequence[Piece]) -> str:
    """The page, as text.

    Raises:
        BundleError: The template needs something the records do not hold.
    """
    shown = [
        {"name": one.name, "versions": [{"caption": caption, **_embedded(path)} for caption, path in one.versions]}
        for one in pieces
    ]
    sensitivity = manifest.quantization.sensitivity if manifest.quantization else None
    return fill_template(
        "the report",
        resources.files(__name__) / "page.html.jinja",
        {},
        html=True,
        release=manifest,
        build=build,
        pieces=shown,
        quality=quality_rows(manifest),
        summary=worst_measurements(manifest),
        against_speed=_against_speed(manifest, build),
        sensitivity=sensitivity and _sensitivity(manifest, build),
    )


def _against_speed(manifest: Manifest, build: BuildRecord) -> str | None:
    means = {form: each["psnr_rgb"] for form, each in mean_quality(manifest).items() if "psnr_rgb" in each}
    points = []
    for one in build.speed.speeds:
        form = "reference" if one.form.endswith(", unfused") else one.form
        name = "trained network" if form == "reference" else f"{one.precision.value}, {one.runtime}"
        if form in means:
            points.append(Point(x=one.median_ms, low=one.fastest_ms, high=one.slowest_ms, y=means[form], label=name))
    height, width = build.speed.shape[2:]
    floor = means.get("bicubic")
    return (
        scatter(
            points, f"ms per {width}x{height} picture (logarithmic)", "PSNR, dB", (floor, "bicubic") if floor else None
        )
        if points
        else None
    )


def _sensitivity(manifest: Manifest, build: BuildRecord) -> str:
    assert manifest.quantization is not None
    assert manifest.quantization.sensitivity is not None
    times = {one.name: one for one in build.parts}
    rows = []
    for part in manifest.quantization.sensitivity.parts:
        noise = 0.0 if part.psnr is None else 10 ** (-part.psnr / 10)
        note = "identical" if part.psnr is None else f"{part.psnr:.1f} dB"
        if part.name in times:
            note += f", {times[part.name].fp32_ms - times[part.name].int8_ms:+.1f} ms saved"
        rows.append((part.name, noise, note + (" (stays float)" if part.kept_float else ""), part.kept_float))
    return bars(rows, "share of int8's error")


def _embedded(path: Path) -> dict[str, Any]:
    """The picture inside the page, without loss."""
    from PIL import Image

    with Image.open(path) as image:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="WEBP", lossless=True, quality=80, method=4)
        text = base64.b64encode(buffer.getvalue()).decode("ascii")
        return {"data": f"data:image/webp;base64,{text}", "width": image.width, "height": image.height}
