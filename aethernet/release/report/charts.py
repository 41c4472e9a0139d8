"""Charts as SVG text that stands inside a page and takes its colours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Point", "bars", "scatter"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 320, 56, 150, 16, 44
_LABEL = 17
"""Least distance between two labels' lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One form."""

    x: float
    low: float
    high: float
    """Spread of ``x``."""
    y: float
    label: str


def scatter(points: Sequence[Point], x_label: str, y_label: str, base: tuple[float, str] | None) -> str:
    """Points over a logarithmic axis, with their spread and their labels at the right, and a line to compare with.

    Args:
        points: At least one; ``x`` above zero.
        x_label: What ``x`` is.
        y_label: What ``y`` is.
        base: A value of ``y`` and what it is.
    """
    from markupsafe import Markup, escape

    lowest, highest = min(one.low for one in points), max(one.high for one in points)
    left, right = math.log10(lowest) - 0.1, math.log10(highest) + 0.1
    levels = [one.y for one in points] + ([base[0]] if base else [])
    span = max(max(levels) - min(levels), 0.1)
    bottom, top = min(levels) - 0.12 * span, max(levels) + 0.12 * span

    def x(value: float) -> float:
        return _LEFT + (math.log10(value) - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - bottom) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)

    end = _WIDTH - _RIGHT
    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{end}"/>']
    for tick in _ticks(bottom, top):
        parts.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{end}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for decade in range(math.floor(left), math.ceil(right) + 1):
        for factor in (1, 2, 5):
            tick = factor * 10.0**decade
            if left <= math.log10(tick) <= right:
                parts.append(f'<path class="grid" d="M{x(tick):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
                parts.append(
                    f'<text x="{x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
                )
    if base is not None:
        parts.append(f'<path class="base" d="M{_LEFT} {y(base[0]):.1f}H{end}"/>')
        text = f"{escape(base[1])} {base[0]:.2f}"
        parts.append(f'<text x="{end - 4}" y="{y(base[0]) - 5:.1f}" text-anchor="end">{text}</text>')
    middle = (_LEFT + end) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    points = sorted(points, key=lambda one: (round(y(one.y) / _LABEL), -one.x))  # so that no two leaders cross
    places = _apart([y(one.y) for one in points])
    for one, place in zip(points, places, strict=True):
        parts.append(f'<path class="spread" d="M{x(one.low):.1f} {y(one.y):.1f}H{x(one.high):.1f}"/>')
        parts.append(f'<path class="leader" d="M{x(one.x):.1f} {y(one.y):.1f}L{end + 4} {place:.1f}"/>')
        parts.append(f'<circle cx="{x(one.x):.1f}" cy="{y(one.y):.1f}" r="5"/>')
        parts.append(f'<text x="{end + 8}" y="{place + 4:.1f}">{escape(one.label)}</text>')
    told = "; ".join(f"{one.label}: {one.x:.1f} ms, {one.y:.2f} dB" for one in points)
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(told)}">{"".join(parts)}</svg>'
    )


def bars(rows: Sequence[tuple[str, float, str, bool]], title: str) -> str:
    """Horizontal bars: label, length, note, whether it is muted."""
    from markupsafe import Markup, escape

    room, line = 260, 22
    longest = max((length for _, length, _, _ in rows), default=0) or 1.0
    parts = []
    for index, (label, length, note, muted) in enumerate(rows):
        top = index * line
        reach = max(1.0, room * length / longest)
        parts.append(f'<text x="170" y="{top + 15}" text-anchor="end">{escape(label)}</text>')
        look = ' class="muted"' if muted else ""
        parts.append(f'<rect{look} x="178" y="{top + 4}" width="{reach:.1f}" height="14"/>')
        parts.append(f'<text x="{186 + reach:.1f}" y="{top + 15}">{escape(note)}</text>')
    height = line * len(rows) + 4
    told = escape(f"{title}: " + "; ".join(f"{label} {note}" for label, _, note, _ in rows))
    return Markup(f'<svg viewBox="0 0 640 {height}" role="img" aria-label="{told}">{"".join(parts)}</svg>')


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers between the two."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]


def _apart(places: Sequence[float]) -> list[float]:
    """The same places moved down where a label would cover the one before."""
    moved = list(places)
    for before, index in itertools.pairwise(range(len(places))):
        moved[index] = max(moved[index], moved[before] + _LABEL)
    excess = max(moved, default=0) - (_HEIGHT - _BOTTOM)
    return [place - excess if excess > 0 else place for place in moved]
