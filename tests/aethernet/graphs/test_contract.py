"""A file that breaks a rule is refused, and the error names every rule it breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx.external_data_helper import set_external_data

from aethernet.errors import ExportError
from aethernet.graphs.contract import INFERENCE_SIZES, describe_onnx, require_contract
from aethernet.precision import Precision
from tests.support.exports import REFERENCE, Export, every_network

PROMISES = {"precision": Precision.FP32, "channels": 1, "scale": 2, "opset": 17}
"""What the reference file keeps."""


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "image"


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "picture"


def free_channels(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "c"


def name_output_axes_like_the_inputs(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "h"
    model.graph.output[0].type.tensor_type.shape.dim[3].dim_param = "w"


def leave_output_axes_unnamed(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[2].Clear()


def add_an_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, ["n"]))


def add_an_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(onnx.helper.make_tensor_value_info("sub", onnx.TensorProto.FLOAT, None))


def type_input_as_half(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def newer_ir_version(model: onnx.ModelProto) -> None:
    model.ir_version = 10


def newer_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 18


def custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def model_function(model: onnx.ModelProto) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    opset = onnx.helper.make_opsetid("", 17)
    model.functions.append(onnx.helper.make_function("com.example", "MyRelu", ["x"], ["y"], [node], [opset]))


def weights_in_another_file(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    set_external_data(tensor, location="weights.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL


def tensor_nobody_makes(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = "nobody"


BREAKS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "input renamed": (rename_input, "inputs: .*'image'"),
    "output renamed": (rename_output, "outputs: .*'picture'"),
    "channels free": (free_channels, r"inputs: .*'n', 'c', 'h', 'w'"),
    "output axes named like the input's": (name_output_axes_like_the_inputs, r"outputs: .*'n', 1, 'h', 'w'"),
    "output axis unnamed": (leave_output_axes_unnamed, r"outputs: .*'n', 1, '\?', '2\*w'"),
    "two inputs": (add_an_input, "inputs: .*'mask'"),
    "two outputs": (add_an_output, "outputs: .*'sub'"),
    "half input": (type_input_as_half, "inputs: .*found .*'float16'"),
    "newer IR version": (newer_ir_version, "IR version: expected 8, found 10"),
    "newer opset": (newer_opset, "opset: expected 17, found 18"),
    "custom operator": (custom_operator, "standard ones only, found .*com.example:"),
    "model function": (model_function, "standard ones only, found model functions"),
    "external weights": (weights_in_another_file, "expected inside the file, found external data"),
    "not a valid graph": (tensor_nobody_makes, "onnx.checker: .*nobody"),
}


@pytest.fixture
def reference(export: Export) -> onnx.ModelProto:
    return onnx.load(export(REFERENCE).path)


@every_network
def test_exported_file_keeps_its_contract(export: Export, name: str) -> None:
    exported = export(name)
    config = exported.network.config

    description = require_contract(
        exported.path, precision=Precision.FP32, channels=config.in_channels, scale=config.scale, opset=17
    )

    assert description == exported.description


@pytest.mark.parametrize(("change", "rule"), BREAKS.values(), ids=BREAKS.keys())
def test_broken_rule_is_named(
    reference: onnx.ModelProto, tmp_path: Path, change: Callable[[onnx.ModelProto], None], rule: str
) -> None:
    change(reference)
    (tmp_path / "broken.onnx").write_bytes(reference.SerializeToString())

    with pytest.raises(ExportError, match=f"(?s)broken.onnx breaks its contract; .*{rule}"):
        require_contract(tmp_path / "broken.onnx", **PROMISES)


def test_all_broken_rules_are_named_at_once(reference: onnx.ModelProto, tmp_path: Path) -> None:
    for change in (rename_input, name_output_axes_like_the_inputs, newer_ir_version, newer_opset, custom_operator):
        change(reference)
    weights_in_another_file(reference)
    (tmp_path / "broken.onnx").write_bytes(reference.SerializeToString())

    with pytest.raises(ExportError) as caught:
        require_contract(tmp_path / "broken.onnx", **PROMISES)

    rules = ("inputs:", "outputs:", "opset:", "IR version:", "operators:", "weights:")
    assert [rule for rule in rules if rule not in str(caught.value)] == []


def test_another_scale_than_promised_is_named(export: Export) -> None:
    with pytest.raises(ExportError, match=r"outputs: expected .*4\*h.*found .*2\*h"):
        require_contract(export(REFERENCE).path, **PROMISES | {"scale": 4})


def test_scale_that_only_the_axis_names_claim_is_found_by_shape_inference_at_every_size(
    reference: onnx.ModelProto, tmp_path: Path
) -> None:
    reference.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "4*h"
    reference.graph.output[0].type.tensor_type.shape.dim[3].dim_param = "4*w"
    (tmp_path / "liar.onnx").write_bytes(reference.SerializeToString())

    with pytest.raises(ExportError) as caught:
        require_contract(tmp_path / "liar.onnx", **PROMISES | {"scale": 4})

    wanted = [f"shape inference at {side}x{side}: expected scale 4, found output" for side in INFERENCE_SIZES]
    assert [text for text in wanted if text not in str(caught.value)] == []


@pytest.mark.parametrize("side", [16, 64, 256, 512])
@every_network
def test_strict_shape_inference_tells_the_scale(export: Export, name: str, side: int) -> None:
    """That is how chaiNNer finds it; so the same steps, written apart from the library's own."""
    exported = export(name)
    model = onnx.load(exported.path)
    for axis, size in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (side, side), strict=True):
        axis.dim_value = size
    model.graph.output[0].type.tensor_type.ClearField("shape")

    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)

    shape = [axis.dim_value for axis in inferred.graph.output[0].type.tensor_type.shape.dim]
    assert shape[1:] == [exported.network.config.in_channels] + [side * exported.network.config.scale] * 2


def test_fixed_file_keeps_the_contract_of_its_size_only(export: Export) -> None:
    exported = export(REFERENCE, static=(12, 20))

    require_contract(exported.path, **PROMISES, static=(12, 20))
    with pytest.raises(ExportError, match=r"inputs: .*outputs: "):
        require_contract(exported.path, **PROMISES, static=(20, 12))
    with pytest.raises(ExportError, match=r"inputs: .*outputs: "):
        require_contract(exported.path, **PROMISES)


def test_description_counts_operators_by_name(reference: onnx.ModelProto) -> None:
    description = describe_onnx(reference)

    assert list(description.operators) == sorted(description.operators)
    assert description.nodes == len(reference.graph.node)
    assert description.operators["DepthToSpace"] == 1
