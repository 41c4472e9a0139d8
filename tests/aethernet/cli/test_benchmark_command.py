"""``aethernet benchmark``, as a user calls it; never how fast anything is."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from aethernet.cli import main as cli
from aethernet.cli.benchmark import benchmark_tables, benchmark_words
from tests.aethernet.benchmark.test_run import foreign_file
from tests.support.releases import flip_byte


def called(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["aethernet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def finished(finished_release: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], str, Path]:
    """One run with everything: two floors of which one cannot hold, a foreign file, a chart."""
    folder = tmp_path_factory.mktemp("benchmark")
    other, chart = foreign_file(folder / "other.onnx"), folder / "chart.png"
    options = ("--sizes", "16x12", "--runs", 1, "--threads", 1, "--against", other, "--chart", chart, "--json")
    floors = ("--floor", "fp32/torch-unfused=0.000001", "--floor", "other/fp32=1000000")
    code, out, err = called("benchmark", finished_release, *options, *floors)
    return code, json.loads(out), err, chart


def test_a_floor_that_is_missed_fails_and_says_which(finished: tuple[int, dict[str, Any], str, Path]) -> None:
    code, found, err, _ = finished

    assert code == 1
    assert [one["holds"] for one in found["floors"]] == [True, False]
    assert "floor fp32/torch-unfused = 1e-06 holds" in err
    assert "floor other/fp32 = 1e+06 is missed" in err


def test_json_has_the_documented_shape(finished: tuple[int, dict[str, Any], str, Path]) -> None:
    _, found, _, _ = finished

    assert set(found) == {
        *("schema_version", "release", "scale", "host", "toolchain", "threads", "runs", "seconds", "sizes", "skipped"),
        "floors",
    }
    (size,) = found["sizes"]
    assert (size["size"], size["shape"]) == ("16x12", [1, 3, 16, 12])
    for one in size["results"]:
        assert set(one) == {
            *("name", "file", "precision", "runtime", "runs", "median_ms", "fastest_ms", "slowest_ms", "first_ms"),
            *("megapixels_per_second", "load_ms", "peak_memory_mb", "network_memory_mb", "times_first", "times_fp32"),
        }
    results = {one["name"]: one for one in size["results"]}
    assert {"torch-unfused", "torch-fused", "fp32", "fp16", "other"} <= set(results)
    assert results["torch-unfused"]["times_first"] == 1
    assert results["fp32"]["times_fp32"] == 1
    ratio = results["torch-unfused"]["median_ms"] / results["fp32"]["median_ms"]
    assert results["fp32"]["times_first"] == pytest.approx(ratio, rel=1e-2)
    assert found["floors"][0]["reached"]["16x12"] == pytest.approx(ratio, rel=1e-2)


def test_what_is_documented_is_what_there_is(finished: tuple[int, dict[str, Any], str, Path]) -> None:
    _, found, _, _ = finished
    page = (Path(__file__).resolve().parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")

    for name in (*found, *found["sizes"][0], *found["sizes"][0]["results"][0], *found["floors"][0]):
        assert f"`{name}`" in page


def test_table_fits_80_columns(finished: tuple[int, dict[str, Any], str, Path]) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80)
    for table in benchmark_tables(finished[1]):
        console.print(table)

    lines = out.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in out.getvalue()
    assert [line.split()[0] for line in lines[2:5]] == ["torch-unfused", "torch-fused", "fp32"]


def test_what_did_not_run_is_said(finished: tuple[int, dict[str, Any], str, Path]) -> None:
    facts = finished[1] | {"skipped": [{"name": "openvino-fp32", "reason": "cannot run here: openvino is missing"}]}

    assert next(benchmark_words(facts)) == "openvino-fp32 cannot run here: openvino is missing"


def test_chart_is_written(finished: tuple[int, dict[str, Any], str, Path]) -> None:
    with Image.open(finished[3]) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--floor", "int9/fp32=1"), "int9"),
        (("--floor", "fast"), "such as int8/fp32=1.5"),
        (("--against", "nowhere.onnx"), "nowhere.onnx"),
        (("--sizes", "256"), "sizes"),
        (("--chart", "chart.jpg"), "chart.jpg"),
    ],
)
def test_misuse_is_said_before_anything_runs(finished_release: Path, arguments: tuple[str, str], word: str) -> None:
    code, out, err = called("benchmark", finished_release, *arguments)

    assert (code, out) == (2, "")
    assert word in err
    assert "loading" not in err


def test_a_release_that_was_changed_is_not_run(release: Path) -> None:
    flip_byte(release / "tiny_2x_fp32.onnx")

    code, out, err = called("benchmark", release)

    assert (code, out) == (1, "")
    assert "tiny_2x_fp32.onnx" in err
