"""A quantised ONNX graph: its activations, its layers, and which of their sides hold integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from aethernet.export.lint.report import Signedness
from aethernet.graphs.reading import REARRANGING, OnnxGraph, attribute

if TYPE_CHECKING:
    import onnx

__all__ = ["LAYERS", "QuantizedGraph", "QuantizedLayer", "is_constant", "layers_of", "output_axis", "signedness_of"]

LAYERS = ("Conv", "MatMul", "Gemm")
"""Operators that multiply and accumulate."""


class QuantizedGraph(OnnxGraph):
    """A graph with what its QuantizeLinear (Q) and DequantizeLinear (DQ) nodes mean."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self._names = {id(node): node.name or f"{node.op_type} number {at}" for at, node in enumerate(self.nodes)}

    def name(self, node: onnx.NodeProto) -> str:
        """How findings call a node."""
        return self._names[id(node)]

    def scale(self, node: onnx.NodeProto) -> np.ndarray | None:
        """Scale of a Q or DQ node."""
        return self.array(node.input[1])

    def zero_point(self, node: onnx.NodeProto) -> np.ndarray | None:
        """Zero-point of a Q or DQ node, None where it is computed."""
        import onnx

        if len(node.input) > 2 and node.input[2]:
            return self.array(node.input[2])
        if node.op_type == "QuantizeLinear":
            wanted = int(attribute(node, "output_dtype", 0)) or onnx.TensorProto.UINT8
            return np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(wanted))
        value = self.array(node.input[0])
        if value is not None:
            return np.zeros((), value.dtype)
        source = self.maker(node.input[0], "QuantizeLinear")
        return self.zero_point(source) if source is not None else np.zeros((), np.uint8)

    def activations(self) -> Iterator[onnx.NodeProto]:
        """Q and DQ nodes that do not act on constants."""
        for node in self.nodes:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in self.tensors:
                continue
            source = self.maker(node.input[0], "QuantizeLinear")
            if source is None or source.input[0] not in self.tensors:
                yield node

    def same_grid(self, first: onnx.NodeProto, second: onnx.NodeProto) -> bool:
        """Whether two Q or DQ nodes mean the same numbers by the same integers."""
        pairs = [(self.scale(first), self.scale(second)), (self.zero_point(first), self.zero_point(second))]
        return all(a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def signedness_of(graph: QuantizedGraph) -> Signedness | None:
    """What most activations say; None where none is quantised."""
    kinds = Counter(zero.dtype for node in graph.activations() if (zero := graph.zero_point(node)) is not None)
    if not kinds:
        return None
    return Signedness.SIGNED if kinds[np.dtype(np.int8)] > kinds[np.dtype(np.uint8)] else Signedness.UNSIGNED


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedLayer:
    """A convolution or product, and which sides of it are quantised."""

    node: onnx.NodeProto = field(repr=False)
    called: str
    """Its weight's name, else its own."""
    place: int
    """Which input is the weight."""
    weight: onnx.NodeProto | None
    """The DequantizeLinear its weight comes from."""
    source: onnx.NodeProto | None
    """The DequantizeLinear its input comes from."""

    @property
    def quantised(self) -> bool:
        """Whether both its weight and its input are."""
        return self.weight is not None and self.source is not None


def layers_of(graph: QuantizedGraph) -> list[QuantizedLayer]:
    """Every Conv, MatMul and Gemm, in the order of the file, float ones too."""
    layers = []
    for node in graph.nodes:
        if node.op_type not in LAYERS:
            continue
        fixed = [is_constant(graph, name) for name in node.input[:2]]
        place = 0 if fixed[0] and not fixed[1] else 1
        name = node.input[place]
        weight = graph.maker(name, "DequantizeLinear")
        layers.append(
            QuantizedLayer(
                node=node,
                called=name if fixed[place] else graph.name(node),
                place=place,
                weight=weight,
                source=graph.maker(node.input[1 - place], "DequantizeLinear", REARRANGING),
            )
        )
    return layers


def is_constant(graph: QuantizedGraph, name: str) -> bool:
    """Whether a tensor follows from constants alone by quantising, dequantising and rearranging."""
    while name not in graph.tensors:
        node = graph.makers.get(name)
        if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear", *REARRANGING):
            return False
        name = node.input[0]
    return True


def output_axis(layer: QuantizedLayer, axes: int) -> int:
    """The output channels' axis of a layer's weight, which has ``axes`` axes."""
    if layer.node.op_type == "Conv" or (layer.node.op_type == "Gemm" and attribute(layer.node, "transB", 0)):
        return 0
    return axes - 1 if layer.place == 1 else axes - 2  # a product; its weight stands right or left
