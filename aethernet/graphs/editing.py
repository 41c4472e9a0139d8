"""Changing ONNX graphs in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["drop_unused_initializers", "replace_nodes"]


def replace_nodes(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make ``nodes`` the graph's nodes, in place; they may be its own, in another order."""
    # Copied first: protobuf empties the messages of a list that is cleared.
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def drop_unused_initializers(proto: onnx.ModelProto) -> None:
    """Remove constants that no node reads, in place."""
    used = {name for node in proto.graph.node for name in node.input}
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in used]:
        proto.graph.initializer.remove(tensor)
