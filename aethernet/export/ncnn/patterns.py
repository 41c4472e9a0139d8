"""Finding, in an exporter's graph, what ncnn has one layer for, and writing it as one node.

The nodes written here are ours and never leave this package: ``Gelu``, ``LargerOf``, ``Silu``, ``GroupNorm``,
``ChannelsReplaced`` and ``RepeatedChannels``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

__all__ = ["Graph", "Node", "combined"]


@dataclass(slots=True)
class Node:
    """A node of a graph."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)


class Graph:
    """An ONNX graph's nodes and constants."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        import onnx

        array = onnx.numpy_helper.to_array
        self.constants: dict[str, NDArray[Any]] = {tensor.name: array(tensor) for tensor in proto.graph.initializer}
        self.nodes: list[Node] = []
        for node in proto.graph.node:
            attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
            if node.op_type == "Constant" and "value" in attributes:
                self.constants[node.output[0]] = array(attributes["value"])
            else:
                self.nodes.append(Node(node.op_type, list(node.input), list(node.output), attributes))
        self.input, self.output = proto.graph.input[0].name, proto.graph.output[0].name
        self.channels = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value

    @property
    def makers(self) -> dict[str, Node]:
        """Tensor -> the node it comes from."""
        return {name: node for node in self.nodes for name in node.outputs}

    @property
    def readers(self) -> Counter[str]:
        """Tensor -> how often it is read."""
        return Counter([self.output, *(name for node in self.nodes for name in node.inputs)])

    def number(self, name: str) -> float | None:
        """The constant of that name where it is one number."""
        value = self.constants.get(name)
        return float(value.reshape(())) if value is not None and value.size == 1 else None


def combined(graph: Graph) -> None:
    """Write every pattern as one node, in place, and drop what nothing reads any more."""
    makers = graph.makers
    for node in graph.nodes:
        for find in (_gelu, _larger_of, _silu, _group_norm, _channels_replaced, _repeated_channels):
            found = find(graph, makers, node)
            if found is not None:
                node.op, node.inputs, node.attributes = found.op, found.inputs, found.attributes
                break
    needed, kept = {graph.output}, []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    graph.nodes = kept[::-1]


_Makers = Mapping[str, Node]
_Find = Callable[[Graph, _Makers, Node], "Node | None"]


def _made_by(makers: _Makers, name: str, op: str) -> Node | None:
    node = makers.get(name)
    return node if node is not None and node.op == op else None


def _gelu(graph: Graph, makers: _Makers, node: Node) -> Node | None:
    """x, 0.5 and 1 + erf(x / sqrt(2)), multiplied in any order."""
    if node.op != "Mul":
        return None
    factors: list[str] = []
    for name in node.inputs:
        inner = _made_by(makers, name, "Mul")
        factors += inner.inputs if inner is not None else [name]
    if len(factors) != 3 or sum(graph.number(name) == 0.5 for name in factors) != 1:
        return None
    for name in factors:
        total = _made_by(makers, name, "Add")
        erf = next((one for part in total.inputs if (one := _made_by(makers, part, "Erf"))), None) if total else None
        if total is None or erf is None or not any(graph.number(part) == 1 for part in total.inputs):
            continue
        scaled = makers.get(erf.inputs[0])
        if scaled is None or scaled.op not in ("Div", "Mul"):
            continue
        x, factor = scaled.inputs[0], graph.number(scaled.inputs[1])
        wanted = math.sqrt(2) if scaled.op == "Div" else math.sqrt(0.5)
        if factor is not None and math.isclose(factor, wanted, rel_tol=1e-6) and x in factors:
            return Node("Gelu", [x], node.outputs)
    return None


def _larger_of(graph: Graph, makers: _Makers, node: Node) -> Node | None:
    """max(x, slope * x), which is PReLU where the slope is at most one; see the conversion for others."""
    if node.op != "Max" or len(node.inputs) != 2:
        return None
    for x, name in (tuple(node.inputs), tuple(reversed(node.inputs))):
        scaled = _made_by(makers, name, "Mul")
        if scaled is None or x not in scaled.inputs:
            continue
        slope = next((one for one in scaled.inputs if one in graph.constants), None)
        if slope is not None:
            return Node("LargerOf", [x, slope], node.outputs)
    return None


def _silu(_: Graph, makers: _Makers, node: Node) -> Node | None:
    """A value times its own sigmoid."""
    if node.op != "Mul":
        return None
    for x, name in (tuple(node.inputs), tuple(reversed(node.inputs))):
        gate = _made_by(makers, name, "Sigmoid")
        if gate is not None and gate.inputs[0] == x:
            return Node("Silu", [x], node.outputs)
    return None


def _group_norm(graph: Graph, makers: _Makers, node: Node) -> Node | None:
    """An instance norm of the channels of each group laid end to end, brought back to its shape; the affine follows."""
    if node.op != "Reshape":
        return None
    norm = _made_by(makers, node.inputs[0], "InstanceNormalization")
    shape = _made_by(makers, node.inputs[1], "Shape")
    grouped = _made_by(makers, norm.inputs[0], "Reshape") if norm is not None else None
    if norm is None or shape is None or grouped is None or grouped.inputs[0] != shape.inputs[0]:
        return None
    sizes = graph.constants.get(grouped.inputs[1])
    gain, shift = (graph.constants.get(name) for name in norm.inputs[1:3])
    if sizes is None or gain is None or shift is None or sizes.size != 3 or sizes[2] != -1:
        return None
    if not (gain == 1).all() or shift.any():
        return None
    attributes = {"groups": int(sizes[1]), "epsilon": norm.attributes.get("epsilon", 1e-5)}
    return Node("GroupNorm", [grouped.inputs[0]], node.outputs, attributes)


def _channels_replaced(graph: Graph, makers: _Makers, node: Node) -> Node | None:
    """A scatter of new first channels into a tensor, which works on transposed tensors with counted indices."""
    if node.op != "Transpose" or list(node.attributes.get("perm", ())) != [1, 0, 2, 3]:
        return None
    scatter = _made_by(makers, node.inputs[0], "ScatterND")
    if scatter is None or scatter.attributes.get("reduction", b"none") != b"none":
        return None
    sides = [_made_by(makers, scatter.inputs[place], "Transpose") for place in (0, 2)]
    places = _made_by(makers, scatter.inputs[1], "Unsqueeze")
    counted = _made_by(makers, places.inputs[0], "Slice") if places is not None else None
    numbers = _made_by(makers, counted.inputs[0], "Range") if counted is not None else None
    whole, part = sides
    if whole is None or part is None or counted is None or numbers is None:
        return None
    if any(list(side.attributes.get("perm", ())) != [1, 0, 2, 3] for side in (whole, part)):
        return None
    start, stop = (graph.number(name) for name in counted.inputs[1:3])
    step = graph.number(counted.inputs[4]) if len(counted.inputs) > 4 else 1
    if graph.number(numbers.inputs[0]) != 0 or graph.number(numbers.inputs[2]) != 1 or (start, step) != (0, 1):
        return None
    if stop is None or stop <= 0:
        return None
    return Node("ChannelsReplaced", [whole.inputs[0], part.inputs[0]], node.outputs, {"count": int(stop)})


def _repeated_channels(graph: Graph, makers: _Makers, node: Node) -> Node | None:
    """Every channel several times in a row: unsqueezed, expanded and reshaped."""
    if node.op != "Reshape":
        return None
    expanded = _made_by(makers, node.inputs[0], "Expand")
    single = _made_by(makers, expanded.inputs[0], "Unsqueeze") if expanded is not None else None
    if expanded is None or single is None:
        return None
    axis, shape = graph.constants.get(single.inputs[1]), graph.constants.get(expanded.inputs[1])
    if axis is None or axis.reshape(-1).tolist() != [2] or shape is None or shape.size != 5:
        return None
    if np.delete(shape, 2).tolist() != [1, 1, 1, 1]:
        return None
    return Node("RepeatedChannels", [single.inputs[0]], node.outputs, {"times": int(shape[2])})
