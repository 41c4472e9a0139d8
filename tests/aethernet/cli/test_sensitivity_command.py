"""``aethernet sensitivity``, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from aethernet.checkpoint import load
from aethernet.networks.fusion import fuse
from aethernet.quantization.structure import units_of
from tests.support.releases import small_pictures, tiny_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    tiny_checkpoint(folder)
    small_pictures(folder / "low")
    return folder


@pytest.mark.slow
def test_json_holds_cost_and_gain_of_every_part_and_the_chart_is_written(call, place: Path, tmp_path: Path) -> None:
    chart = tmp_path / "chart.png"
    arguments = ("--images", place / "low", "--size", "24x20", "--threads", 1, "--chart", chart, "--json")

    code, out, err = call("sensitivity", place / "tiny.safetensors", *arguments)
    found = json.loads(out)

    assert code == 0
    units = units_of(fuse(load(place / "tiny.safetensors").model))
    assert [part["part"] for part in found["parts"]] == units
    assert set(found["parts"][0]) == {
        *("part", "psnr_db", "snr_db", "noise", "tint", "work", "fp32_ms", "int8_ms", "kept_float")
    }
    assert found["times"]["shape"] == [1, 3, 24, 20]
    assert found["kept_float"] == []
    assert all(f"measuring {unit}" in err for unit in units)
    with Image.open(chart) as image:
        assert image.format == "PNG"


def test_table_fits_80_columns_and_a_budget_says_what_to_write(call, place: Path) -> None:
    source = place / "tiny.safetensors"
    arguments = ("--images", place / "low", "--no-time", "--budget", 36.5)

    code, out, err = call("sensitivity", source, *arguments)

    assert code == 0
    assert "conv_after_body" in out
    assert "(float)" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "[quantization] budget_db = 36.5" in err


def test_budget_out_of_reach_fails(call, place: Path) -> None:
    code, out, err = call("sensitivity", place / "tiny.safetensors", "--images", place / "low", "--budget", 90)

    assert (code, out) == (1, "")
    assert "within 90 dB" in err


@pytest.mark.parametrize("arguments", [("--chart", "chart.svg"), ("--size", "big"), ("--size", "0x9")])
def test_misuse_is_said_before_anything_is_measured(call, place: Path, arguments: tuple[str, str]) -> None:
    code, out, err = call("sensitivity", place / "tiny.safetensors", *arguments)

    assert (code, out) == (2, "")
    assert "expected" in err
    assert "measuring" not in err
