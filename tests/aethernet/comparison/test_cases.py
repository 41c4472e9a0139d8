"""What is compared: every picture, and the sizes at which exporters go wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aethernet.comparison import Case, build_cases
from aethernet.images.files import load_picture, sample_pictures, save_picture
from tests.support.pictures import natural_picture

SHAPES = {
    "traced 2x24x20": (2, 3, 24, 20),
    "odd 17x31": (1, 3, 17, 31),
    "power of two and one less 255x257": (1, 3, 255, 257),
    "smallest 1x1": (1, 3, 1, 1),
    "batch of 2 2x64x48": (2, 3, 64, 48),
}


def picture_file(folder: Path, name: str, height: int, width: int) -> Path:
    path = folder / f"{name}.png"
    save_picture(natural_picture(height, width, seed=height + width).numpy(), path)
    return path


@pytest.fixture
def samples() -> dict[str, Path]:
    return {path.stem: path for path in sample_pictures()}


def by_name(cases: list[Case]) -> dict[str, Case]:
    return {case.name: case for case in cases}


def test_every_picture_comes_whole_and_every_size_once(samples: dict[str, Path]) -> None:
    cases = build_cases(samples, 3)

    whole = {f"{name} 96x96": (1, 3, 96, 96) for name in samples}
    assert {case.name: case.input.shape for case in cases} == whole | SHAPES


def test_grey_networks_get_grey_inputs(samples: dict[str, Path]) -> None:
    assert {case.input.shape[1] for case in build_cases(samples, 1)} == {1}


def test_inputs_are_what_runtimes_expect(samples: dict[str, Path]) -> None:
    for case in build_cases(samples, 3):
        assert case.input.dtype == np.float32
        assert case.input.flags.c_contiguous
        assert 0 <= case.input.min() <= case.input.max() <= 1


def test_same_pictures_give_the_same_cases(samples: dict[str, Path]) -> None:
    first, second = build_cases(samples, 3), build_cases(samples, 3)

    assert [case.name for case in first] == [case.name for case in second]
    assert all(np.array_equal(one.input, other.input) for one, other in zip(first, second, strict=True))


def test_crops_are_pixels_of_the_pictures_not_noise(samples: dict[str, Path]) -> None:
    cases = by_name(build_cases(samples, 3))
    odd, batch = cases["odd 17x31"], cases["batch of 2 2x64x48"]
    pictures = {name: load_picture(path) for name, path in samples.items()}

    windows = np.lib.stride_tricks.sliding_window_view(pictures[odd.picture][0], (3, 17, 31))
    assert any(np.array_equal(window, odd.input[0]) for window in windows.reshape(-1, 3, 17, 31))
    assert batch.picture == "+".join(samples)
    assert not np.array_equal(batch.input[0], batch.input[1])


def test_one_picture_is_enough(tmp_path: Path) -> None:
    cases = build_cases({"only": picture_file(tmp_path, "only", 40, 50)}, 3)

    assert {case.picture for case in cases} == {"only"}
    assert {case.name: case.input.shape for case in cases} == {"only 40x50": (1, 3, 40, 50)} | SHAPES


def test_names_are_unique_also_for_a_picture_called_like_a_size(tmp_path: Path) -> None:
    pictures = {"odd": picture_file(tmp_path, "odd", 17, 31), "smallest": picture_file(tmp_path, "smallest", 1, 1)}

    names = [case.name for case in build_cases(pictures, 3)]

    assert len(set(names)) == len(names) == 7


def test_picture_too_small_for_a_size_is_continued_by_its_mirror_image(tmp_path: Path) -> None:
    path = picture_file(tmp_path, "tiny", 5, 4)
    tiny = load_picture(path)

    odd = by_name(build_cases({"tiny": path}, 3))["odd 17x31"].input

    assert odd.shape == (1, 3, 17, 31)
    assert np.array_equal(odd[:, :, :5, :4], tiny)
    assert np.array_equal(odd[:, :, :5, 4:8], tiny[:, :, :, ::-1])
    assert np.array_equal(odd[:, :, 5:10, :4], tiny[:, :, ::-1])


def test_large_picture_is_compared_on_its_middle(tmp_path: Path) -> None:
    path = picture_file(tmp_path, "large", 530, 520)

    case = by_name(build_cases({"large": path}, 3))["large 512x512"]

    assert case.window == (9, 4, 512, 512)
    assert np.array_equal(case.input, load_picture(path)[:, :, 9:521, 4:516])


def test_long_picture_is_cut_on_its_long_side_only(tmp_path: Path) -> None:
    case = build_cases({"long": picture_file(tmp_path, "long", 20, 600)}, 3)[0]

    assert (case.name, case.window) == ("long 20x512", (0, 44, 20, 512))


def test_only_whole_pictures_have_a_window(samples: dict[str, Path]) -> None:
    windows = {case.name: case.window for case in build_cases(samples, 3)}

    assert {name for name, window in windows.items() if window is None} == set(SHAPES)
    assert {window for window in windows.values() if window is not None} == {(0, 0, 96, 96)}


def test_file_of_a_fixed_size_is_compared_at_that_size_only(samples: dict[str, Path]) -> None:
    cases = build_cases(samples, 3, static=(32, 40))

    assert [case.input.shape for case in cases] == [(1, 3, 32, 40)] * 2
    assert [case.window for case in cases] == [(32, 28, 32, 40)] * 2


def test_picture_smaller_than_the_fixed_size_is_mirrored_and_has_no_window(tmp_path: Path) -> None:
    (case,) = build_cases({"small": picture_file(tmp_path, "small", 10, 50)}, 3, static=(16, 16))

    assert (case.input.shape, case.window) == ((1, 3, 16, 16), None)
    assert np.array_equal(case.input[:, :, 10:], case.input[:, :, 4:10][:, :, ::-1])
