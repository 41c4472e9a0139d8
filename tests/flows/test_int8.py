"""int8 through the whole release flow, on a tiny network with random weights: its limits are written in the spec."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from aethernet import load
from aethernet.export.lint import lint_onnx
from aethernet.precision import Precision
from aethernet.release.bundle import open_bundle
from aethernet.release.spec import make_spec
from aethernet.release.verification import verify_bundle
from tests.support.releases import NAME, make_release, small_images, tiny_checkpoint
from tests.support.workplace import CommandLine, Workplace

pytestmark = pytest.mark.long

# Random weights are so noisy in int8 that every change of the rounding, such as the half precision of the TensorRT
# file, gives the image another noise: files agree with one another hardly more than with the float network.
LIMITS = """
[limits.int8]
min_psnr = 15
max_signed_mean = 0.2
max_hr_loss = 20
min_agreement = 0.05
min_speedup = 0.01
"""


def _with_int8(place: Workplace, limits: str) -> None:
    kept = [line for line in place.spec.read_text().splitlines() if not line.startswith("leave_out")]
    place.spec.write_text("\n".join(kept) + "\n" + limits)


def test_int8_is_released_in_all_its_forms_and_what_gains_too_little_is_left_out(
    workplace: Workplace, command_line: CommandLine
) -> None:
    _with_int8(workplace, LIMITS)

    finished = command_line([*workplace.release, "--precisions", "fp32,int8"])

    assert finished.code == 0, finished.err
    assert verify_bundle(workplace.bundle).problems == ()
    manifest = open_bundle(workplace.bundle).manifest
    files = {entry.path for entry in manifest.files if entry.precision is Precision.INT8}
    assert files == {f"{NAME}_int8{suffix}" for suffix in (".onnx", "_trt.onnx", ".safetensors", ".pth")}
    for name in (f"{NAME}_int8.onnx", f"{NAME}_int8_trt.onnx"):
        assert lint_onnx(workplace.bundle / name).ok
    for name in (f"{NAME}_int8.safetensors", f"{NAME}_int8.pth"):
        assert load(workplace.bundle / name).int8
    assert manifest.quantization is not None
    assert manifest.quantization.origin == "pictures"
    assert manifest.quantization.integer_share == 1
    assert "How int8 was made" in (workplace.bundle / "README.md").read_text()
    assert {item.form.file for item in manifest.measurements if item.agreement is not None} == files

    # The same store, so that only the gate and what follows it runs again.
    workplace.spec.write_text(workplace.spec.read_text().replace("min_speedup = 0.01", "min_speedup = 1000"))
    shutil.rmtree(workplace.hub)
    finished = command_line(workplace.release)

    assert finished.code == 0, finished.err
    forms = {form["precision"]: form for form in finished.summary["forms"]}
    assert forms["int8"]["status"] == "skipped"
    assert "times as fast as fp32 < 1000 times" in forms["int8"]["reason"]
    assert not [one.path for one in open_bundle(workplace.bundle).manifest.files if one.precision is Precision.INT8]


def test_without_images_or_records_int8_is_skipped_with_that_reason(
    workplace: Workplace, command_line: CommandLine
) -> None:
    kept = [line for line in workplace.spec.read_text().splitlines() if not line.startswith(("images", "hr", "leave"))]
    workplace.spec.write_text("\n".join(kept) + "\n")

    finished = command_line(workplace.release)

    assert finished.code == 0, finished.err
    forms = {form["precision"]: form for form in finished.summary["forms"]}
    assert forms["int8"]["status"] == "skipped"
    assert "expected calibration images or records" in forms["int8"]["reason"]


def test_a_budget_keeps_parts_float_and_the_release_says_which(tmp_path: Path) -> None:
    spec = {
        "name": NAME,
        "checkpoint": tiny_checkpoint(tmp_path),
        "images": small_images(tmp_path / "low"),
        "precisions": ["fp32", "int8"],
        "quantization": {"budget_db": 37},
        **tomllib.loads(LIMITS.replace("min_agreement = 0.5", "min_agreement = 0.001")),
    }

    folder = make_release(make_spec(spec), tmp_path)

    assert verify_bundle(folder).problems == ()
    bundle = open_bundle(folder)
    quantization = bundle.manifest.quantization
    assert quantization is not None
    assert quantization.sensitivity is not None
    kept = tuple(part.name for part in quantization.sensitivity.parts if part.kept_float)
    assert kept
    assert quantization.keep_float == kept
    assert (quantization.sensitivity.expected_psnr or 0) >= quantization.sensitivity.budget == 37
    assert [part.name for part in bundle.build.parts] == [part.name for part in quantization.sensitivity.parts]
    assert (folder / "images" / "sensitivity.png").exists()
    assert "images/sensitivity.png" in (folder / "README.md").read_text()
