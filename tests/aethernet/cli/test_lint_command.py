"""``aethernet lint``, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.int8_files import one_int8_layer


def test_a_good_file_passes_with_its_census(call, tmp_path: Path) -> None:
    code, out, err = call("lint", one_int8_layer(tmp_path / "good.onnx"))

    assert code == 0, out
    assert "unsigned" in out
    assert "1 int8, 0 float" in out
    assert "100.0% of 294,912 multiply-accumulates" in out
    assert "keeps the rules" in err


def test_a_broken_file_fails_and_every_line_says_where(call, tmp_path: Path) -> None:
    code, out, err = call("lint", one_int8_layer(tmp_path / "broken.onnx", zero_point=100))

    assert code == 1
    assert out.count("expected zero-point 128, found 100") == 4
    assert "error" in out
    assert "breaks the rules" in err


def test_json_holds_the_findings_and_nothing_else_is_on_stdout(call, tmp_path: Path) -> None:
    code, out, _ = call("lint", one_int8_layer(tmp_path / "broken.onnx", zero_point=100), "--json")
    found = json.loads(out)

    assert code == 1
    assert not found["ok"]
    assert {finding["rule"] for finding in found["findings"]} == {"zero-point"}


def test_without_running_nothing_is_counted(call, tmp_path: Path) -> None:
    code, out, _ = call("lint", one_int8_layer(tmp_path / "good.onnx"), "--no-run")

    assert code == 0
    assert "not counted" in out


@pytest.mark.parametrize("content", [None, b"text"])
def test_what_is_no_onnx_file_is_misuse(call, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "file.onnx").write_bytes(content)

    code, out, err = call("lint", tmp_path / "file.onnx")

    assert code == 2
    assert out == ""
    assert "expected an ONNX file" in err
