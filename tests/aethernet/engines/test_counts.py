"""Layers are counted by the precision they compute in, and what was lost on the way is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import onnx

from aethernet.engines.counts import PlanCounts, count_inspected, count_network, count_plan, findings_of, intended_int8
from aethernet.precision import Precision
from tests.support.engines import small_model


@dataclass
class Tensor:
    name: str
    kind: str

    @property
    def dtype(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.kind)


@dataclass
class Layer:
    """As much of a TensorRT layer as is looked at."""

    kind: str
    inputs: list[Tensor]
    output: Tensor
    num_outputs: int = field(default=1, init=False)

    @property
    def name(self) -> str:
        return f"{self.kind} {self.output.name}"

    @property
    def type(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.kind)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        assert index == 0
        return self.output


def network(*, weights: str = "INT8", after: str = "HALF") -> list[Layer]:
    """Q and DQ, a transposed view, a convolution with dequantised weights, an activation."""
    picture, scale = Tensor("input", "HALF"), Tensor("scale", "FLOAT")
    q, dq, view = Tensor("q", "INT8"), Tensor("dq", "HALF"), Tensor("view", "HALF")
    stored, kernel = Tensor("stored", weights), Tensor("kernel", "HALF")
    conv, active = Tensor("conv", "HALF"), Tensor("active", after)
    return [
        Layer("CONSTANT", [], scale),
        Layer("QUANTIZE", [picture, scale], q),
        Layer("DEQUANTIZE", [q, scale], dq),
        Layer("SHUFFLE", [dq], view),
        Layer("CONSTANT", [], stored),
        Layer("DEQUANTIZE" if weights == "INT8" else "IDENTITY", [stored, scale], kernel),
        Layer("CONVOLUTION", [view, kernel], conv),
        Layer("ACTIVATION", [conv], active),
        Layer("SHAPE", [active], Tensor("shape", "INT64")),
    ]


def test_a_layer_is_int8_where_both_inputs_are() -> None:
    counts = count_network(network(), Precision.INT8)

    assert counts.products == {"int8": 1}
    assert (counts.quantize, counts.dequantize) == (1, 2)
    assert counts.others == {"fp16": 2}
    assert counts.half_quantized == counts.fp32_islands == ()


def test_a_layer_with_float_weights_is_not_and_is_named() -> None:
    counts = count_network(network(weights="HALF"), Precision.INT8)

    assert counts.products == {"fp16": 1}
    assert counts.half_quantized == ("CONVOLUTION conv",)
    assert findings_of(1, counts, None) == ("the file has 1 int8 layers, the parsed network 0",)


def test_fp32_is_an_island_except_in_an_fp32_network() -> None:
    islands = count_network(network(after="FLOAT"), Precision.INT8)

    assert islands.fp32_islands == ("ACTIVATION active",)
    assert findings_of(1, islands, None) == ("1 operations compute in fp32: ACTIVATION active",)
    assert count_network(network(after="FLOAT"), Precision.FP32).fp32_islands == ()


def test_the_file_says_how_many_are_meant(tmp_path: Path) -> None:
    assert intended_int8(onnx.load(small_model(tmp_path / "a.onnx", Precision.INT8))) == 2
    assert intended_int8(onnx.load(small_model(tmp_path / "b.onnx", Precision.FP16))) == 0


PLAN = b"""\x00\x01binary#include <cuda>\n#define N 4\nextern "C" __global__ void __myl_a(int x) { }\x00
  tensor={ alignment=128 dims={ 1 } name="a" offset=0 type=int8 }
  tensor={ alignment=128 dims={ 1 } name="w" offset=0 type=int8 }
  tensor={ alignment=128 dims={ 1 } name="h" offset=0 type=half }
  corrltn={ name="one" output={"x" } input={"a" "w" "h" } scratchspace={"s" } }
  fully_connected={ name="two" output={"y" } input={"view^deref" "h" } scratchspace={"s" } }
  function={ name=__myl_a fqn=__myl_a_0x1 }
"""


def test_the_kernel_graph_of_a_plan_is_read() -> None:
    counts = count_plan(PLAN)

    assert counts is not None
    assert counts.products == {"fp16": 1, "int8": 1}
    assert counts.graphs == 1
    assert (counts.kernels, counts.kernel_sources) == (3, 1)
    assert counts.source_bytes is not None
    assert 70 < counts.source_bytes < 90


def test_a_plan_without_such_a_graph_is_not_guessed_at() -> None:
    assert count_plan(b"ftrt" + bytes(1000)) is None


def test_an_engine_that_lost_its_int8_layers_is_found_out() -> None:
    counts = count_network(network(), Precision.INT8)

    def plan(graphs: int = 1, **products: int) -> PlanCounts:
        return PlanCounts(source="test", graphs=graphs, products=products, kernels=1)

    assert findings_of(1, counts, plan(int8=1)) == ()
    assert findings_of(1, counts, plan(graphs=2, int8=2)) == ()
    assert findings_of(1, counts, plan(graphs=2, int8=1, fp16=1)) != ()
    assert findings_of(1, counts, plan(fp16=1)) == ("the network has 1 int8 layers, the built engine none (1 fp16)",)
    assert findings_of(1, counts, plan(int8=1, fp32=2)) == (
        "2 layers of the built engine compute in fp32, none of the network does",
    )


def test_what_the_engine_inspector_says_is_counted() -> None:
    layers = [
        {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Int8 NCHW"}]},
        {"LayerType": "CaskGemmConvolution", "Inputs": [{"Format/Datatype": "FP16 NHWC"}]},
        {"LayerType": "MatrixMultiply", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
        {"LayerType": "PointWise", "Inputs": [{"Format/Datatype": "FP32"}]},
        {"LayerType": "gemm", "Inputs": []},
    ]

    counts = count_inspected(layers)

    assert counts.products == {"fp16": 1, "fp32": 1, "int8": 1, "unknown": 1}
    assert counts.kernels == 5
