"""The exact GELU is written so that ONNX Runtime recognises it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from aethernet.export.onnx import _arrange_gelu


def gelu_model(reader: bool = False) -> onnx.ModelProto:
    """x * (0.5 * (1 + erf(x / sqrt 2))), as PyTorch's exporter writes it; ``reader``: a second node uses its middle."""
    graph = onnx.parser.parse_graph(
        """
        gelu (float[n, 8] x) => (float[n, 8] y)
        <float root = {1.41421356}, float one = {1.0}, float half = {0.5}>
        {
            scaled = Div(x, root)
            error = Erf(scaled)
            total = Add(error, one)
            gate = Mul(half, total)
            y = Mul(x, gate)
        }
        """
    )
    if reader:
        graph.node.append(onnx.helper.make_node("Neg", ["gate"], ["other"]))
        graph.output.append(onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ["n", 8]))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def optimised_operators(model: onnx.ModelProto, folder: Path) -> list[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


def test_onnx_runtime_merges_the_arranged_gelu_into_one_kernel(tmp_path: Path) -> None:
    model = gelu_model()
    before = optimised_operators(model, tmp_path)

    _arrange_gelu(model)

    assert len(before) == 5
    assert optimised_operators(model, tmp_path) == ["Gelu"]


def test_the_arranged_gelu_computes_the_same_values() -> None:
    x = np.linspace(-6, 6, 64, dtype=np.float32).reshape(8, 8)
    model = gelu_model()
    wanted = run(model, x)

    _arrange_gelu(model)

    np.testing.assert_allclose(run(model, x), wanted, atol=1e-6)


@pytest.mark.parametrize("constant", [0.25, 1.0])
def test_another_factor_is_left_alone(constant: float) -> None:
    model = gelu_model()
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.array([constant], np.float32), "half"))
    before = model.SerializeToString(deterministic=True)

    _arrange_gelu(model)

    assert model.SerializeToString(deterministic=True) == before


def test_a_gate_somebody_else_reads_is_left_alone() -> None:
    model = gelu_model(reader=True)
    before = model.SerializeToString(deterministic=True)

    _arrange_gelu(model)

    assert model.SerializeToString(deterministic=True) == before
