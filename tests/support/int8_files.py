"""int8 ONNX files of one layer, written node by node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["one_int8_layer"]


def one_int8_layer(path: Path, *, zero_point: int = 128) -> Path:
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
