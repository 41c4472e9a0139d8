"""``aethernet engine``, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aethernet.precision import Precision
from tests.support.commands import Call
from tests.support.engines import RTX_VERSION, install, needs_rtx, no_gpu, paper_engine, small_model


@pytest.fixture
def call(call: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """On a machine without a GPU."""
    no_gpu(monkeypatch)
    return call


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(monkeypatch, tmp_path / "packages", "tensorrt-rtx", RTX_VERSION)
    return paper_engine(tmp_path / "engines")


def test_build_writes_engines_that_check_accepts(call, tmp_path: Path) -> None:
    needs_rtx()
    source = small_model(tmp_path / "net_int8_trt.onnx", Precision.INT8)

    made = call(
        "engine",
        "build",
        source,
        "-o",
        tmp_path / "engines",
        "--profile",
        "1x32x32",
        "--capabilities",
        "sm89",
        "--json",
    )
    (facts,) = json.loads(made.out)["engines"]
    checked = call("engine", "check", facts["file"])

    assert made.code == 0, made.err
    assert Path(facts["file"]).name == "net_int8_1x32x32_tensorrt_rtx_sm89.engine"
    assert facts["network"]["products"] == {"int8": 2}
    assert checked.code == 0, checked.err
    assert checked.out == f"{facts['file']}: int8 for TensorRT-RTX {RTX_VERSION}, whole\n"
    assert "not checked: there is no GPU here" in checked.err


def test_info_says_the_same_under_both_names(call, engine: Path) -> None:
    facts = json.loads(call("engine", "info", engine, "--json").out)

    assert facts == json.loads(call("info", engine, "--json").out)
    assert facts["runs_on"] == ["8.6", "8.9"]
    assert facts["messages"] == ["warning: something (2 times)"]
    assert "TensorRT-RTX" in call("engine", "info", engine).out


def test_a_refused_engine_is_a_failed_check(call, engine: Path) -> None:
    engine.write_bytes(b"ftrt")

    refused = call("engine", "check", engine)

    assert refused.code == 1
    assert refused.out == ""
    assert "error: expected 260 bytes" in refused.err
    assert "hint: copy it again, or build it anew: aethernet engine build" in refused.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--backend", "openvino"], "expected --backend tensorrt_rtx or tensorrt, found openvino"),
        (["--profile", "huge"], "expected a profile"),
        (["--capabilities", "ada"], "expected compute capabilities"),
        (["--precisions", "fp16"], "expected --precisions with a release folder"),
    ],
)
def test_misuse_is_told_apart_from_failure(call, tmp_path: Path, engine: Path, options: list[str], told: str) -> None:
    wrong = call("engine", "build", small_model(tmp_path / "net.onnx"), *options)

    assert wrong.code == 2
    assert told in wrong.err


def test_a_release_is_asked_for_the_forms_it_has(call, finished_release: Path, engine: Path) -> None:
    missing = call("engine", "build", finished_release, "--precisions", "int8")

    assert missing.code == 2
    assert "expected forms that the release has, found none of int8" in missing.err


def test_an_onnx_file_to_check_against_must_be_there(call, engine: Path) -> None:
    assert call("engine", "check", engine, "--onnx", "nowhere.onnx").code == 2


def test_what_cannot_be_built_is_told_and_fails(call, tmp_path: Path) -> None:
    needs_rtx()
    source = small_model(tmp_path / "net.onnx", Precision.INT8, unsigned=True)

    failed = call("engine", "build", source, "-o", tmp_path / "engines", "--json")

    assert failed.code == 1
    assert json.loads(failed.out)["engines"] == []
    assert "not built: net_tile_tensorrt_rtx_sm75.engine: expected signed int8" in failed.err
