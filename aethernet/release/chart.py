"""Bar charts for people, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from aethernet.quantization.sensitivity import Sensitivity, UnitTimes

__all__ = ["Bars", "bar_chart", "sensitivity_chart"]

_WIDTH, _MARGIN, _BAR, _GAP, _LINE = 960, 16, 12, 8, 24
_COLOURS = ("#c8553d", "#2a6f97", "#5b8e7d")
_MUTED = ("#dfc4bd", "#b9cbd6", "#c5d2cd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """One row: a label, one bar per series, and a note behind them."""

    label: str
    values: tuple[float, ...]
    """Lengths, zero or more, all rows and series on one scale."""
    note: str = ""
    muted: bool = False
    """Drawn paler than the others."""


def bar_chart(title: str, series: Sequence[str], rows: Sequence[Bars]) -> Image:
    """Horizontal bars from the left.

    Args:
        title: One line.
        series: What each bar of a row means; with one series there is no legend.
        rows: From top to bottom; values in the order of ``series``.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, bold = ImageFont.load_default(13), ImageFont.load_default(17)
    height = max(_LINE - _GAP, _BAR * len(series)) + _GAP
    head = _MARGIN + 30 + (_LINE if len(series) > 1 else 0)
    image = Image.new("RGB", (_WIDTH, head + height * len(rows) + _MARGIN), "white")
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _MARGIN), title, fill="black", font=bold)
    if len(series) > 1:
        left = float(_MARGIN)
        for name, colour in zip(series, _COLOURS, strict=False):
            draw.rectangle((left, _MARGIN + 32, left + _BAR, _MARGIN + 32 + _BAR), fill=colour)
            draw.text((left + _BAR + 6, _MARGIN + 30), name, fill="black", font=font)
            left += _BAR + 30 + draw.textlength(name, font=font)
    left = _MARGIN + 12 + max(draw.textlength(row.label, font=font) for row in rows)
    room = _WIDTH - _MARGIN - left - 12 - max(draw.textlength(row.note, font=font) for row in rows)
    longest = max(max(row.values) for row in rows) or 1.0
    for index, row in enumerate(rows):
        top = head + index * height
        middle = top + (height - _GAP) / 2
        draw.text((left - 12, middle), row.label, fill="black", font=font, anchor="rm")
        end = left
        for place, value in enumerate(row.values):
            y = middle - _BAR * len(series) / 2 + place * _BAR
            reach = left + max(1.0, room * max(0.0, value) / longest)
            draw.rectangle((left, y + 1, reach, y + _BAR - 1), fill=(_MUTED if row.muted else _COLOURS)[place])
            end = max(end, reach)
        draw.text((end + 8, middle), row.note, fill="black", font=font, anchor="lm")
    return image


def sensitivity_chart(measured: Sensitivity, times: UnitTimes | None = None) -> Image:
    """Share of the error, and of the work or (with ``times``) of the time saved, part by part."""
    noise = sum(one.cost.noise for one in measured.units) or 1.0
    saved = {unit: before - after for unit, (before, after) in times.units.items()} if times is not None else {}
    whole = sum(max(0.0, one) for one in saved.values()) or 1.0
    rows = []
    for one in measured.units:
        psnr = f"{one.cost.psnr:.1f} dB" if one.cost.psnr is not None else "identical"
        gain = f", {saved[one.unit]:+.1f} ms saved" if saved else f", {one.work:.1%} of the work"
        gained = saved[one.unit] / whole if saved else one.work
        rows.append(
            Bars(
                label=one.unit,
                values=(one.cost.noise / noise, max(0.0, gained)),
                note=psnr + gain + (" (float)" if one.kept_float else ""),
                muted=one.kept_float,
            )
        )
    series = ("share of the error", "share of the time saved" if saved else "share of the multiplications")
    return bar_chart("What int8 costs and saves, part by part", series, rows)
