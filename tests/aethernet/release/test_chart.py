"""Bars are as long as their values say."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor

from aethernet.release.chart import Bars, bar_chart


def pixels_of(image: Image.Image, colour: str) -> int:
    return int((np.asarray(image) == ImageColor.getrgb(colour)).all(axis=-1).sum())


def test_a_bar_twice_as_long_has_twice_the_pixels() -> None:
    def drawn(value: float) -> int:
        rows = [Bars(label="ours", values=(value,)), Bars(label="other", values=(8.0,), muted=True)]
        return pixels_of(bar_chart("Time", ["ms"], rows), "#c8553d")

    assert abs(drawn(4) / drawn(2) - 2) < 0.02
    assert drawn(0) < drawn(2) / 50


def test_every_series_and_every_row_is_drawn() -> None:
    rows = [Bars(label=f"row {index}", values=(1.0, 0.5), note="a note") for index in range(3)]

    one, three = bar_chart("Title", ["cost", "gain"], rows[:1]), bar_chart("Title", ["cost", "gain"], rows)

    for colour in ("#c8553d", "#2a6f97"):
        assert pixels_of(three, colour) > 2 * pixels_of(one, colour) > 0
    assert three.height > one.height
    assert pixels_of(three, "#dfc4bd") == 0


def test_long_labels_and_notes_stay_inside() -> None:
    rows = [Bars(label="a" * 40, values=(1.0,), note="n" * 30), Bars(label="b", values=(0.2,))]

    image = np.asarray(bar_chart("Title", ["ms"], rows))

    assert (image[:, :8] == 255).all()
    assert (image[:, -8:] == 255).all()
