"""``aethernet lint``, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def one_layer(path: Path, *, zero_point: int = 128) -> Path:
    """One convolution in the unsigned form."""
    tensors = {
        "scale": np.array(0.02, np.float32),
        "zero": np.array(zero_point, np.uint8),
        "w_int8": np.full((8, 4, 3, 3), 20, np.int8),
        "w_scale": np.full(8, 0.01, np.float32),
        "b_int32": np.ones(8, np.int32),
        "b_scale": np.full(8, 0.02 * 0.01, np.float32),
    }
    grid = ["scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["input", *grid], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", *grid], ["dq"], name="dq"),
        helper.make_node("DequantizeLinear", ["w_int8", "w_scale"], ["w"], name="weight", axis=0),
        helper.make_node("DequantizeLinear", ["b_int32", "b_scale"], ["b"], name="bias", axis=0),
        helper.make_node("Conv", ["dq", "w", "b"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["c", *grid], ["q2"], name="q2"),
        helper.make_node("DequantizeLinear", ["q2", *grid], ["output"], name="dq2"),
    ]
    graph = helper.make_graph(
        nodes,
        "one layer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 8, "2*h", "2*w"])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_good_file_passes_with_its_census(call, tmp_path: Path) -> None:
    code, out, err = call("lint", one_layer(tmp_path / "good.onnx"))

    assert code == 0, out
    assert "unsigned" in out
    assert "1 int8, 0 float" in out
    assert "100.0% of 294,912 multiply-accumulates" in out
    assert "keeps the rules" in err


def test_a_broken_file_fails_and_every_line_says_where(call, tmp_path: Path) -> None:
    code, out, err = call("lint", one_layer(tmp_path / "broken.onnx", zero_point=100))

    assert code == 1
    assert out.count("expected zero-point 128, found 100") == 4
    assert "error" in out
    assert "breaks the rules" in err


def test_json_holds_the_findings_and_nothing_else_is_on_stdout(call, tmp_path: Path) -> None:
    code, out, _ = call("lint", one_layer(tmp_path / "broken.onnx", zero_point=100), "--json")
    found = json.loads(out)

    assert code == 1
    assert not found["ok"]
    assert {finding["rule"] for finding in found["findings"]} == {"zero-point"}


def test_without_running_nothing_is_counted(call, tmp_path: Path) -> None:
    code, out, _ = call("lint", one_layer(tmp_path / "good.onnx"), "--no-run")

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
