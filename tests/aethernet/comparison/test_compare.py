"""Measuring a form: numbers for whatever it answers, and never an exception."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aethernet.comparison import Case, FormId, bicubic, compare_form, measure_quality, outputs_of
from aethernet.comparison.compare import measure
from aethernet.errors import ComparisonError
from aethernet.images.files import load_picture, save_picture
from aethernet.precision import Precision
from tests.support.pictures import natural_picture
from tests.support.runtimes import FunctionRuntime, enlarged

FORM = FormId(precision=Precision.FP32, file="network.onnx", runtime="fake")


def case(name: str, height: int, width: int, *, batch: int = 1, whole: bool = False) -> Case:
    picture = natural_picture(height, width, batch=batch).numpy()
    window = (0, 0, height, width) if whole else None
    return Case(name=name, picture=name, input=picture, window=window, whole=(height, width))


CASES = [case("first", 16, 12, whole=True), case("second", 5, 7, batch=2)]


def compare(function: Callable[[np.ndarray], np.ndarray]) -> tuple[list, dict[str, np.ndarray]]:
    reference = outputs_of(FunctionRuntime(name="reference"), CASES)
    return compare_form(FORM, FunctionRuntime(function), reference, CASES)


def test_outputs_are_those_of_the_runtime_by_case() -> None:
    outputs = outputs_of(FunctionRuntime(), CASES)

    assert list(outputs) == ["first", "second"]
    assert all(np.array_equal(outputs[one.name], enlarged(one.input)) for one in CASES)


def test_device_is_held_only_while_running() -> None:
    runtime = FunctionRuntime()

    outputs_of(runtime, CASES)

    assert runtime.record == ["fake opens", "fake runs", "fake runs", "fake closes"]


def test_identical_form_differs_by_nothing() -> None:
    measurements, _ = compare(enlarged)

    for found in measurements:
        assert (found.problem, found.finite, found.psnr) == (None, True, None)
        assert (found.max_abs, found.mean_abs, found.signed_mean) == (0, 0, (0, 0, 0))
        assert (found.levels_equal, found.levels_off_by_1, found.levels_off_by_2_or_more) == (1, 0, 0)
        assert found.levels_largest == 0


def test_every_case_is_measured_under_its_own_name() -> None:
    measurements, outputs = compare(enlarged)

    assert [(found.case, found.picture, found.shape) for found in measurements] == [
        ("first", "first", (1, 16, 12)),
        ("second", "second", (2, 5, 7)),
    ]
    assert {found.form for found in measurements} == {FORM}
    assert list(outputs) == ["first", "second"]


def test_differences_are_form_minus_reference_per_channel() -> None:
    tint = np.array([0.02, 0, -0.01], dtype=np.float32).reshape(1, 3, 1, 1)
    wanted = np.full((1, 3, 4, 4), 0.5, dtype=np.float32)

    found = measure(FORM, case("tinted", 2, 2), wanted, wanted + tint)

    assert found.signed_mean == pytest.approx((0.02, 0, -0.01), rel=1e-4)
    assert found.max_abs == pytest.approx(0.02, rel=1e-4)
    assert found.mean_abs == pytest.approx(0.01, rel=1e-4)
    assert found.psnr == pytest.approx(-10 * np.log10((0.02**2 + 0.01**2) / 3), abs=1e-3)
    assert found.levels_largest == 5


def test_raw_difference_sees_what_clipping_hides() -> None:
    wanted = np.full((1, 3, 4, 4), 1.5, dtype=np.float32)

    found = measure(FORM, case("bright", 2, 2), wanted, wanted + 1)

    assert (found.max_abs, found.psnr, found.signed_mean, found.levels_largest) == (1, None, (0, 0, 0), 0)


def test_range_of_the_reference_is_measured_on_the_same_input() -> None:
    wanted = np.linspace(-1, 3, 48, dtype=np.float32).reshape(1, 3, 4, 4)

    assert measure(FORM, case("wide", 2, 2), wanted, wanted).reference_range == 4


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda picture: enlarged(picture, 3), "(1, 3, 48, 36)"),
        (lambda picture: enlarged(picture)[:, :1], "(1, 1, 32, 24)"),
        (lambda picture: enlarged(picture)[0], "(3, 32, 24)"),
        (lambda picture: enlarged(picture).transpose(0, 2, 3, 1), "(1, 32, 24, 3)"),
    ],
    ids=["another scale", "a channel only", "no batch", "channels last"],
)
def test_wrong_shape_is_a_problem_that_names_both(function: Callable[[np.ndarray], np.ndarray], shape: str) -> None:
    measurements, _ = compare(function)

    assert len(measurements) == len(CASES)
    assert measurements[0].problem == f"expected an output of shape (1, 3, 32, 24), found {shape}"
    assert measurements[0].max_abs is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_found(value: float) -> None:
    def spoilt(picture: np.ndarray) -> np.ndarray:
        output = enlarged(picture)
        output[0, 0, 0, 0] = value
        return output

    measurements, _ = compare(spoilt)

    assert [(found.finite, found.psnr, found.max_abs) for found in measurements] == [(False, None, None)] * 2


def test_reference_that_is_no_number_is_a_problem_of_the_form() -> None:
    """Without a number to hold it against, no form may pass."""
    broken = np.full((1, 3, 4, 4), np.nan, dtype=np.float32)

    found = measure(FORM, case("broken", 2, 2), broken, np.zeros_like(broken))

    assert found.problem == "the reference's own output holds NaN or infinity"


def test_runtime_that_fails_to_run_is_a_problem_of_every_case() -> None:
    def fail(picture: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory\nand more lines")

    measurements, outputs = compare(fail)

    assert [found.problem for found in measurements] == ["could not be run: out of memory"] * 2
    assert [found.case for found in measurements] == ["first", "second"]
    assert outputs == {}


def test_runtime_that_fails_without_a_word_is_named_by_its_error() -> None:
    def fail(picture: np.ndarray) -> np.ndarray:
        raise MemoryError

    measurements, _ = compare(fail)

    assert measurements[0].problem == "could not be run: MemoryError"


def test_runtime_that_fails_is_closed_all_the_same() -> None:
    def fail(picture: np.ndarray) -> np.ndarray:
        raise RuntimeError("no")

    runtime = FunctionRuntime(fail)

    compare_form(FORM, runtime, outputs_of(FunctionRuntime(), CASES), CASES)

    assert runtime.record == ["fake opens", "fake runs", "fake closes"]


class WillNotOpen(FunctionRuntime):
    def __enter__(self) -> WillNotOpen:
        raise ComparisonError("cannot load network.onnx")


def test_runtime_that_cannot_be_opened_is_a_problem_of_every_case() -> None:
    measurements, _ = compare_form(FORM, WillNotOpen(), outputs_of(FunctionRuntime(), CASES), CASES)

    assert {found.problem for found in measurements} == {"could not be run: cannot load network.onnx"}


def test_memory_layout_of_outputs_does_not_matter() -> None:
    def channels_last(picture: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(enlarged(picture).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    strided = outputs_of(FunctionRuntime(channels_last), CASES)

    measurements, outputs = compare_form(FORM, FunctionRuntime(channels_last), strided, CASES)
    plain, _ = compare_form(FORM, FunctionRuntime(enlarged), strided, CASES)

    assert [found.max_abs for found in (*measurements, *plain)] == [0] * 4
    assert all(np.array_equal(outputs[one.name], enlarged(one.input)) for one in CASES)


@pytest.fixture
def high(tmp_path: Path) -> dict[str, Path]:
    """An HR partner of the first case: its enlargement."""
    save_picture(enlarged(CASES[0].input), tmp_path / "first.png")
    return {"first": tmp_path / "first.png"}


def test_quality_is_measured_where_there_is_an_hr_partner(high: dict[str, Path]) -> None:
    truth = load_picture(high["first"])
    outputs = {"first": truth + np.float32(2 / 255), "second": enlarged(CASES[1].input)}

    (found,) = measure_quality("network.onnx", outputs, CASES, high, 2, Precision.FP32)

    assert (found.form, found.precision, found.picture, found.border) == (
        "network.onnx",
        Precision.FP32,
        "first",
        2,
    )
    assert found.psnr_rgb == pytest.approx(20 * np.log10(255 / 2), abs=0.1)
    assert found.ssim_rgb is not None
    assert found.ssim_rgb > 0.99


def test_quality_is_that_of_the_picture_as_saved(high: dict[str, Path]) -> None:
    """Rounded to 8 bits: less than half a level off is not off."""
    truth = load_picture(high["first"])

    (found,) = measure_quality("network.onnx", {"first": truth + np.float32(0.4 / 255)}, CASES, high, 2)

    assert found.psnr_rgb is None


@pytest.mark.parametrize(
    "output",
    [np.zeros((1, 3, 48, 36), dtype=np.float32), np.full((1, 3, 32, 24), np.nan, dtype=np.float32)],
    ids=["wrong shape", "no numbers"],
)
def test_output_that_is_a_problem_already_has_no_quality(high: dict[str, Path], output: np.ndarray) -> None:
    assert measure_quality("network.onnx", {"first": output}, CASES, high, 2) == []


def test_hr_picture_of_another_size_cannot_be_compared(tmp_path: Path) -> None:
    save_picture(natural_picture(20, 20).numpy(), tmp_path / "first.png")

    with pytest.raises(ComparisonError, match="2 times its LR partner"):
        measure_quality("f", outputs_of(FunctionRuntime(), CASES), CASES, {"first": tmp_path / "first.png"}, 2)


def test_hr_picture_is_cut_like_its_lr_partner(tmp_path: Path) -> None:
    low = natural_picture(20, 30).numpy()
    save_picture(enlarged(low), tmp_path / "cut.png")
    window = (3, 5, 12, 14)
    crop = np.ascontiguousarray(low[:, :, 3:15, 5:19])
    cut = dataclasses.replace(case("cut", 12, 14), input=crop, window=window, whole=(20, 30))

    (found,) = measure_quality("f", {"cut": enlarged(crop)}, [cut], {"cut": tmp_path / "cut.png"}, 2)

    assert found.psnr_rgb is None


def test_bicubic_keeps_flat_pictures_and_has_the_right_size() -> None:
    flat = np.full((1, 3, 5, 7), 100 / 255, dtype=np.float32)

    output = bicubic(flat, 3)

    assert (output.shape, output.dtype) == ((1, 3, 15, 21), np.float32)
    assert np.unique(output) == pytest.approx([100 / 255])
