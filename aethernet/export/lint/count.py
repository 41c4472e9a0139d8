"""How many multiply-accumulates ONNX Runtime does in integers, counted in the graph that it optimised."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aethernet.export.lint.graph import QuantizedGraph, QuantizedLayer, output_axis
from aethernet.export.lint.report import LintFinding, Macs, lint_error
from aethernet.export.lint.rules import INTEGER_OPERATORS
from aethernet.quantization.scheme import MAC_SHARE

if TYPE_CHECKING:
    import onnx

__all__ = ["count_macs"]

_SIDE = 32
"""Free axes of an image get this length when multiply-accumulates are counted."""


def count_macs(
    graph: QuantizedGraph, layers: list[QuantizedLayer], *, run: bool
) -> tuple[Macs | None, list[LintFinding]]:
    """Count by layer; ``run`` asks ONNX Runtime which of them it runs in integers.

    Returns:
        The counts, None where shapes do not follow from the file, and what is wrong.
    """
    import onnx

    named, fixed = onnx.ModelProto(), onnx.ModelProto()
    named.CopyFrom(graph.model)
    for number, node in enumerate(named.graph.node):
        node.name = f"lint/{number}"  # one each, so that ONNX Runtime's names lead back
    fixed.CopyFrom(graph.model)
    del fixed.graph.value_info[:]
    for info in fixed.graph.input:
        for place, axis in enumerate(info.type.tensor_type.shape.dim):
            if not axis.dim_value:
                axis.dim_value = 1 if place == 0 else _SIDE
    for info in fixed.graph.output:
        info.type.tensor_type.ClearField("shape")
    numbers = {id(node): number for number, node in enumerate(graph.nodes)}
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        return None, [lint_error("shapes", f"expected shapes to follow from the file: {str(error).splitlines()[0]}")]
    shapes = {
        info.name: tuple(axis.dim_value for axis in info.type.tensor_type.shape.dim)
        for info in (*inferred.value_info, *inferred.output, *inferred.input)
    }
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    work = {numbers[id(layer.node)]: _work(layer, shapes) for layer in layers if layer.weight is not None}
    unknown = [layer.called for layer in layers if layer.weight is not None and not work[numbers[id(layer.node)]]]
    if unknown:
        return None, [lint_error("shapes", f"expected shapes to follow from the file, found none for {_few(unknown)}")]
    total = sum(work.values())
    if not run:
        return Macs(quantised_total=total, integer=None), []
    try:
        # With the file's own axes: what ONNX Runtime fuses depends on whether they are free.
        done = _in_integers(named)
    except Exception as error:  # noqa: BLE001 (ONNX Runtime has its own classes, all of them mean that it cannot)
        return Macs(quantised_total=total, integer=None), [
            lint_error("runs", f"expected a file that ONNX Runtime can open: {str(error).splitlines()[0]}")
        ]
    left = [layer.called for layer in layers if layer.weight is not None and numbers[id(layer.node)] not in done]
    macs = Macs(
        quantised_total=total,
        integer=sum(macs for number, macs in work.items() if number in done),
        left_float=tuple(left),
    )
    share = macs.share or 0.0
    if share >= MAC_SHARE:
        return macs, []
    return macs, [
        lint_error(
            "integer-share",
            f"expected at least {MAC_SHARE:.0%} of the multiply-accumulates of quantised layers in integer kernels of "
            f"ONNX Runtime, found {share:.1%}; it runs in float: {_few(left)}",
        )
    ]


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _work(layer: QuantizedLayer, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates: outputs times what goes into each; 0 where a shape is unknown."""
    weight, result = shapes.get(layer.node.input[layer.place]), shapes.get(layer.node.output[0])
    if not weight or not result:
        return 0
    return math.prod(result) * _products(layer, weight)


def _products(layer: QuantizedLayer, weight: tuple[int, ...]) -> int:
    """Multiply-accumulates for one value of the result."""
    if layer.node.op_type == "Conv":
        return math.prod(weight[1:])
    if len(weight) < 2:
        return weight[0]
    # The two last axes are outputs and inputs, those before them are batches.
    return weight[-1] if output_axis(layer, len(weight)) % len(weight) == len(weight) - 2 else weight[-2]


def _in_integers(model: onnx.ModelProto) -> set[int]:
    """Numbers of the nodes (named ``lint/NUMBER``) that ONNX Runtime runs in integer kernels."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(options.optimized_model_filepath)
    found = (
        re.match(r"lint/(\d+)(?!\d)", node.name) for node in optimised.graph.node if node.op_type in INTEGER_OPERATORS
    )
    return {int(match[1]) for match in found if match}
