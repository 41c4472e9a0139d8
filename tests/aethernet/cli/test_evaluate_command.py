"""``aethernet evaluate``, as a user calls it, on a real release of a tiny network."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from aethernet.cli.evaluate import evaluation_tables
from aethernet.release.bundle import open_bundle
from tests.aethernet.cli.test_benchmark_command import called
from tests.support.releases import flip_byte, small_images

FORMS = ["bicubic", "torch-unfused", "torch-fused", "fp32", "fp16"]
FORMS += [
    form for form, package in (("openvino-fp32", "openvino"), ("ncnn", "ncnn")) if importlib.util.find_spec(package)
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "Little2"
    folder.mkdir()
    small_images(folder / "HR", scale=2)
    (folder / "LR").mkdir()
    small_images(folder / "LR" / "x2")
    return folder


@pytest.fixture(scope="module")
def finished(
    finished_release: Path, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    chart = tmp_path_factory.mktemp("evaluate") / "chart.png"
    code, out, err = called("evaluate", finished_release, "--hr", images, "--chart", chart, "--json")
    assert (code, "failed" in err) == (0, False), err
    return json.loads(out), chart


def test_numbers_are_those_the_release_was_judged_by(
    finished: tuple[dict[str, Any], Path], finished_release: Path
) -> None:
    """The same images, the same files, measured by the flow: one definition in two places would drift."""
    manifest = open_bundle(finished_release).manifest
    compared = 0
    for result in finished[0]["results"]:
        for image in result["pictures"]:
            stated = [
                one
                for one in manifest.quality
                if one.form == ("reference" if result["form"] == "torch-unfused" else result["file"] or "bicubic")
                and one.image == image["picture"]
            ]
            if result["runtime"] in ("openvino-cpu", "ncnn-cpu"):
                continue  # another runtime
            compared += len(stated)
            for one in stated:  # a value on the border between two levels may fall either way
                measured = [image[name] for name in ("psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y")]
                assert measured == pytest.approx([one.psnr_rgb, one.ssim_rgb, one.psnr_y, one.ssim_y], abs=1e-4)
    assert compared == 2 * 5 - 1  # the release was judged by one image for the fused network in PyTorch


def test_every_number_carries_its_conditions(finished: tuple[dict[str, Any], Path], finished_release: Path) -> None:
    results = finished[0]["results"]
    digests = {entry.path: entry.sha256 for entry in open_bundle(finished_release).manifest.files}

    assert [one["form"] for one in results] == FORMS
    for one in results:
        assert (one["set"], one["kernel"], one["channels"], one["crop"]) == ("Little2", "not stated", "RGB", 2)
        assert len(one["digest"]) == 64
        assert one["sha256"] == (digests[one["file"]] if one["file"] else None)
        assert one["runtime"]
        for measure in ("psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y"):
            assert one[measure] == pytest.approx(np.mean([each[measure] for each in one["pictures"]]), rel=1e-5)


def test_what_is_documented_is_what_there_is(finished: tuple[dict[str, Any], Path]) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")

    for name in (*finished[0], *finished[0]["results"][0], *finished[0]["results"][0]["pictures"][0]):
        assert f"`{name}`" in page


def test_tables_fit_80_columns_and_say_what_they_hold_for(finished: tuple[dict[str, Any], Path]) -> None:
    out = io.StringIO()
    for table in evaluation_tables(finished[0]):
        Console(file=out, width=80).print(table)

    text = out.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text
    for words in (
        "Little2, 2 images",
        "kernel: not stated",
        "2 pixels cropped",
        finished[0]["results"][0]["digest"][:16],
    ):
        assert words in text


def test_chart_is_written(finished: tuple[dict[str, Any], Path]) -> None:
    with Image.open(finished[1]) as image:
        assert image.format == "PNG"


def test_without_partners_they_are_made_by_the_kernel_that_is_stated(finished_release: Path, images: Path) -> None:
    found = {}
    for kernel in ("matlab-bicubic", "box"):
        options = ("--kernel", kernel, "--only", "bicubic", "--crop", 0, "--json")
        code, out, _ = called("evaluate", finished_release, "--hr", images / "HR", *options)
        assert code == 0
        (found[kernel],) = json.loads(out)["results"]

    assert [one["kernel"] for one in found.values()] == ["matlab-bicubic", "box"]
    assert found["box"]["psnr_rgb"] != found["matlab-bicubic"]["psnr_rgb"]
    assert found["box"]["crop"] == 0


def test_originals_of_odd_sizes_are_cut_to_the_scale(finished_release: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (41, 33, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "odd.png")

    code, out, _ = called("evaluate", finished_release, "--hr", tmp_path, "--only", "fp32", "--json")

    assert code == 0
    assert json.loads(out)["results"][0]["psnr_rgb"] is not None


def test_originals_of_another_scale_are_refused(finished_release: Path, images: Path) -> None:
    code, out, err = called("evaluate", finished_release, "--hr", images / "HR", "--lr", images / "HR")

    assert (code, out) == (1, "")
    assert "to be 2 times" in err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--hr", "nowhere"), "nowhere"),
        (("--only", "fp64"), "fp64"),
        (("--chart", "chart.jpg"), "chart.jpg"),
        (("--kernel", "lanczos"), "lanczos"),
    ],
)
def test_misuse_is_said(finished_release: Path, images: Path, arguments: tuple[str, str], word: str) -> None:
    given = ("--hr", images / "HR") if arguments[0] != "--hr" else ()
    code, out, err = called("evaluate", finished_release, *given, *arguments)

    assert (code, out) == (2, "")
    assert word in err


def test_a_release_that_was_changed_is_not_measured(release: Path, images: Path) -> None:
    flip_byte(release / "tiny_2x_fp32.onnx")

    code, out, err = called("evaluate", release, "--hr", images)

    assert (code, out) == (1, "")
    assert "tiny_2x_fp32.onnx" in err
