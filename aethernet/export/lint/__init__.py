"""Lint for int8 ONNX files: what :mod:`aethernet.quantization.scheme` promises, checked on the bytes that ship.

Two forms are known, told apart by the zero-points of the activations: ``unsigned`` (zero-point 128, float32 remainder,
int32 biases: for ONNX Runtime, OpenVINO and DirectML) and ``signed`` (zero-point 0, fp16 remainder, float biases: for
TensorRT). Files of other tools are read too; what they do differently is named.

What no rule about nodes can promise is measured: ONNX Runtime writes down its optimised graph, and the
multiply-accumulates that integer kernels do in it are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from aethernet.errors import UsageError
from aethernet.export.lint.count import count_macs
from aethernet.export.lint.graph import LAYERS, QuantizedGraph, layers_of, signedness_of
from aethernet.export.lint.report import LintFinding, LintReport, Macs, Severity, Signedness
from aethernet.export.lint.rules import check_file, check_layers

if TYPE_CHECKING:
    import onnx

__all__ = ["LintFinding", "LintReport", "Macs", "Severity", "Signedness", "lint_onnx"]


def lint_onnx(path: Path | str, *, intended: Collection[str] | None = None, run: bool = True) -> LintReport:
    """Check a quantised ONNX file; reports what is wrong rather than raising it.

    Args:
        path: The file. It may come from any tool.
        intended: Names of the weights (as in the network, ``stages.0.0.ffn.conv_gate.weight``) that must be int8, with
            int8 input; all others may be float. By default any layer may be, unless it stands between quantised ones.
        run: Also let ONNX Runtime optimise the unsigned form and count what it runs in integers. The signed form is
            not asked about: ONNX Runtime's processor kernels do not take its fp16 scales.

    Raises:
        UsageError: There is no such file, or it is no ONNX file.
    """
    graph = QuantizedGraph(_load(Path(path)))
    form = signedness_of(graph)
    findings = check_file(graph, form)
    layers, macs = [], None
    if not any(finding.rule == "valid" for finding in findings):
        layers = layers_of(graph)
        findings += check_layers(graph, layers, form, intended)
        if any(layer.weight for layer in layers):
            macs, broken = count_macs(graph, layers, run=run and form is Signedness.UNSIGNED)
            findings += broken
    operators = Counter(node.op_type for node in graph.nodes)
    quantised = Counter(layer.node.op_type for layer in layers if layer.quantised)
    left_float = Counter(layer.node.op_type for layer in layers if not layer.quantised)
    return LintReport(
        file=str(path),
        form=form,
        layers={kind: (quantised[kind], left_float[kind]) for kind in LAYERS if quantised[kind] + left_float[kind]},
        quantize_nodes=operators["QuantizeLinear"],
        dequantize_nodes=operators["DequantizeLinear"],
        findings=tuple(findings),
        macs=macs,
    )


def _load(path: Path) -> onnx.ModelProto:
    import google.protobuf.message
    import onnx

    if not path.is_file():
        raise UsageError(f"expected an ONNX file at {path}, found {'a folder' if path.is_dir() else 'nothing'}")
    try:
        model = onnx.load(str(path))
    except (google.protobuf.message.DecodeError, onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise UsageError(f"expected an ONNX file, found something else: {path}") from error
    if not model.ir_version or not model.graph.node:
        raise UsageError(f"expected an ONNX file with a graph, found none: {path}")
    return model
