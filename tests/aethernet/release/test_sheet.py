"""The before/after sheet shows every version at the same size, and a window worth looking at."""

from __future__ import annotations

import numpy as np
import pytest

from aethernet.release.sheet import comparison_sheet, liveliest_window


def flat(level: float, height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.full((1, channels, height, width), level, dtype=np.float32)


def test_window_lies_where_the_detail_is() -> None:
    picture = flat(0.5, 40, 60)
    picture[:, :, 22:30, 41:49] = np.random.default_rng(0).random((8, 8), dtype=np.float32)

    top, left, height, width = liveliest_window(picture, 10)

    assert (height, width) == (10, 10)
    assert top <= 22
    assert top + height >= 30
    assert left <= 41
    assert left + width >= 49


def test_window_of_a_small_picture_is_the_whole_picture() -> None:
    assert liveliest_window(flat(0.5, 5, 20), 10)[2:] == (5, 10)
    assert liveliest_window(flat(0.5, 5, 7), 10) == (0, 0, 5, 7)


def test_window_of_a_single_pixel_is_that_pixel() -> None:
    assert liveliest_window(flat(0.5, 1, 1), 10) == (0, 0, 1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_window_stays_inside_the_picture(channels: int) -> None:
    picture = np.random.default_rng(1).random((1, channels, 30, 20), dtype=np.float32)
    picture[:, :, -1, -1] = 50

    top, left, height, width = liveliest_window(picture, 8)

    assert (top + height, left + width) == (30, 20)


def test_sheet_holds_all_cells_of_all_rows() -> None:
    rows = [
        [("one", flat(0.2, 10, 30)), ("two", flat(0.4, 10, 30))],
        [("three", flat(0.6, 20, 15)), ("four", flat(0.8, 20, 15))],
    ]

    sheet = comparison_sheet(rows, zoom=2)

    pixels = np.asarray(sheet)
    counts = {level: int((pixels == round(level * 255)).all(axis=2).sum()) for level in (0.2, 0.4, 0.6, 0.8)}
    assert sheet.mode == "RGB"
    assert counts[0.2] >= 4 * 300
    assert counts[0.4] >= 4 * 300
    assert counts[0.6] >= 4 * 300
    assert counts[0.8] >= 4 * 300


def test_sheet_is_as_wide_as_its_widest_row() -> None:
    narrow = comparison_sheet([[("a", flat(0, 5, 40))]])
    both = comparison_sheet([[("a", flat(0, 5, 40))], [("a", flat(0, 5, 40)), ("b", flat(0, 5, 40))]])

    assert both.width > narrow.width
    assert both.height > narrow.height


def test_every_pixel_is_drawn_as_a_square() -> None:
    checks = np.indices((4, 4)).sum(axis=0) % 2
    picture = np.broadcast_to(checks, (1, 3, 4, 4)).astype(np.float32)

    pixels = np.asarray(comparison_sheet([[("", picture)]], zoom=3))

    expected = np.repeat(np.repeat(checks, 3, axis=0), 3, axis=1)[..., None] * np.array([255] * 3)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (12, 12, 3))[:, :, 0]
    assert (windows == expected).all(axis=(2, 3, 4)).sum() == 1


def test_grey_pictures_and_values_out_of_range_are_drawn_too() -> None:
    pixels = np.asarray(comparison_sheet([[("", flat(-3, 6, 6, channels=1)), ("", flat(7, 6, 6))]]))

    assert int((pixels == 0).all(axis=2).sum()) == 36
