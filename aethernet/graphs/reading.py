"""Reading ONNX graphs: who makes and who reads each tensor, and what the constants are."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ["REARRANGING", "OnnxGraph", "attribute"]

REARRANGING = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that arrange the values of one tensor anew and change none."""


class OnnxGraph:
    """A model's main graph as it is now; what is changed in the model afterwards does not show here."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        """Constants by name: initializers, and values of Constant nodes."""
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        """Tensor -> the node whose output it is."""
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        """Tensor -> the nodes that read it, one that reads it twice standing there twice."""
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.tensors[node.output[0]] = node.attribute[0].t
            for name in node.input:
                if name:
                    self.readers.setdefault(name, []).append(node)
        self.outputs = {info.name for info in model.graph.output}

    def array(self, name: str) -> np.ndarray | None:
        """Values of a constant, None for other tensors."""
        from onnx import numpy_helper

        if name not in self.tensors:
            return None
        array: np.ndarray = numpy_helper.to_array(self.tensors[name])
        return array

    def maker(self, name: str, kind: str, through: Collection[str] = ()) -> onnx.NodeProto | None:
        """The node of operator ``kind`` that makes a tensor, or None; nodes of the operators ``through`` are passed."""
        node = self.makers.get(name)
        while node is not None and node.op_type in through:
            node = self.makers.get(node.input[0])
        return node if node is not None and node.op_type == kind else None


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute, ``default`` where it has none of that name."""
    import onnx

    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)
