"""Defects in a released int8 file are caught: what the lint cannot see in the file, the gate sees in the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import aethernet
from aethernet.comparison import (
    DEFAULT_LIMITS,
    Case,
    FormId,
    build_cases,
    compare_form,
    judge,
    outputs_of,
    with_agreement,
)
from aethernet.errors import GateError
from aethernet.export import ExportConfig
from aethernet.export.int8 import export_int8, trace_int8
from aethernet.export.lint import lint_onnx
from aethernet.precision import Precision
from aethernet.runtimes.opening import open_runtime
from aethernet.runtimes.pytorch import TorchRuntime

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

pytestmark = pytest.mark.slow

SAMPLE = Path(__file__).parents[3] / "releases" / "aether_tiny_2x"
LIMITS = {Precision.INT8: DEFAULT_LIMITS[Precision.INT8].model_copy(update={"max_signed_mean": 1 / 255})}
"""Tint is not what these controls are about, and this network, not trained for int8, has some."""

Edit = Callable[[onnx.ModelProto], None]


class Files:
    """The int8 files of the sample network, its float answer, and the gate between them."""

    def __init__(self, folder: Path) -> None:
        loaded = aethernet.load(SAMPLE / "aether_tiny_2x.safetensors")
        assert loaded.finetuned is not None
        network, finished = loaded.model, loaded.finetuned.model
        self.int8, self.tensorrt = folder / "int8.onnx", folder / "int8_trt.onnx"
        traced = trace_int8(finished, ExportConfig())
        for path in (self.int8, self.tensorrt):
            export_int8(finished, path, ExportConfig(), {}, tensorrt=path is self.tensorrt, traced=traced)
        cases = build_cases({"cat": SAMPLE / "images" / "lr" / "cat.png"}, 3, static=(96, 96))
        self.cases: list[Case] = cases[:1]
        self.truth = outputs_of(TorchRuntime(network), self.cases)
        self.sibling = self._run(self.tensorrt)

    def _run(self, path: Path) -> dict[str, ImageArray]:
        return outputs_of(open_runtime(path), self.cases)

    def caught_by(self, path: Path) -> str | None:
        """``lint``, ``gate``, or None."""
        if not lint_onnx(path).ok:
            return "lint"
        form = FormId(precision=Precision.INT8, file=path.name, runtime="onnxruntime-cpu")
        measured, outputs = compare_form(form, open_runtime(path), self.truth, self.cases)
        measured = [with_agreement(item, outputs, self.sibling) for item in measured]
        fp32 = [
            item.model_copy(update={"form": form.model_copy(update={"precision": Precision.FP32})}) for item in measured
        ]
        try:
            judge([*fp32, *measured], [], LIMITS, required=[Precision.INT8])
        except GateError:
            return "gate"
        return None


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("int8"))


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def scale(model: onnx.ModelProto, name: str, factor: float) -> None:
    tensor = constants(model)[name]
    tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * factor).astype(np.float32), name))


def swap(model: onnx.ModelProto, first: str, second: str) -> None:
    one, other = constants(model)[first], constants(model)[second]
    values = numpy_helper.to_array(one).copy(), numpy_helper.to_array(other).copy()
    one.CopyFrom(numpy_helper.from_array(values[1], first))
    other.CopyFrom(numpy_helper.from_array(values[0], second))


def swap_products(model: onnx.ModelProto) -> None:
    """The two gates whose products differ most: their layers have float biases, so nothing in the file contradicts."""
    found = {name: float(numpy_helper.to_array(one)) for name, one in constants(model).items() if ".product.sc" in name}
    swap(model, min(found, key=found.__getitem__), max(found, key=found.__getitem__))


def shift_zero_points(model: onnx.ModelProto) -> None:
    name = "unsigned_zero_point"
    constants(model)[name].CopyFrom(numpy_helper.from_array(np.array(120, np.uint8), name))


def strip(model: onnx.ModelProto) -> None:
    """Take every quantiser of an activation out."""
    gone = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    gone |= {
        node.output[0]: gone[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in gone
    }
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            while name in gone:
                name = gone[name]
            node.input[index] = name


FIRST, LAST = "stages.0.0.ffn", "stages.2.2.ffn"
DEFECTS: dict[str, Edit] = {
    "the weights of a convolution have double scales": lambda model: scale(model, "conv_after_body.weight_scale", 2),
    "the weights of a gate's product have double scales": lambda model: scale(
        model, f"{FIRST}.conv_out.weight_scale", 2
    ),
    "an activation has a double scale": lambda model: scale(model, "conv_after_body.input.scale", 2),
    "zero-points are shifted": shift_zero_points,
    "activations are not quantised": strip,
    "two layers have each other's ranges": lambda model: swap(model, f"{FIRST}.input.scale", f"{LAST}.input.scale"),
    "two products have each other's ranges": swap_products,
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_lint_or_gate_catches_it_when(defect: str, files: Files, tmp_path: Path) -> None:
    model = onnx.load(files.int8)
    before = model.SerializeToString(deterministic=True)
    DEFECTS[defect](model)
    assert model.SerializeToString(deterministic=True) != before
    onnx.save(model, tmp_path / "broken.onnx")

    assert files.caught_by(tmp_path / "broken.onnx") is not None


def test_the_file_as_it_is_passes_both(files: Files) -> None:
    assert files.caught_by(files.int8) is None
