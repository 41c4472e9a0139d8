"""Lint for int8 ONNX files: what :mod:`aethernet.quantization.scheme` promises, checked on the bytes that ship.

Two forms are known, told apart by the zero-points of the activations: ``unsigned`` (zero-point 128, float32 remainder,
int32 biases: for ONNX Runtime, OpenVINO and DirectML) and ``signed`` (zero-point 0, fp16 remainder, float biases: for
TensorRT). Files of other tools are read too; what they do differently is named.

What no rule about nodes can promise is measured: ONNX Runtime writes down its optimised graph, and the
multiply-accumulates that integer kernels do in it are counted.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.errors import UsageError
from aethernet.graphs.contract import MINIMAL_IR
from aethernet.quantization.scheme import MAC_SHARE, PAIR_MAX, UNSIGNED_ZERO_POINT, WEIGHT_MAX

if TYPE_CHECKING:
    import onnx

__all__ = ["LintFinding", "LintReport", "Macs", "Severity", "Signedness", "lint_onnx"]

_LAYERS = ("Conv", "MatMul", "Gemm")
_STAYS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that ONNX Runtime moves quantisation across: they may stand between it and a layer run in integers."""
_MOVES = (*_STAYS, "Concat", "DepthToSpace", "Slice", "SpaceToDepth", "Split")
"""Operators that move values and change none."""
_INTEGER_OPERATORS = (
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
)
_SIDE = 32
"""Free axes of a picture get this length when multiply-accumulates are counted."""
_FP16_OPSET = 19
"""The first with fp16 scales."""
_AXIS_OPSET = 13
"""The first with scales per channel."""


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


class Signedness(StrEnum):
    """Which of the two int8 files one claims to be."""

    UNSIGNED = "unsigned"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFinding:
    """One broken rule at one place."""

    severity: Severity
    rule: str
    message: str
    """Names the place, then what was expected, what was found and, where it is not plain, what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Macs:
    """Multiply-accumulates of the quantised layers for one small picture."""

    quantised_total: int
    """Of all layers with int8 weights."""
    integer: int | None
    """Of those that ONNX Runtime runs in integer kernels; None where it was not asked."""
    left_float: tuple[str, ...] = ()
    """Layers with int8 weights that it runs in float."""

    @property
    def share(self) -> float | None:
        """``integer`` over ``quantised_total``; None where ONNX Runtime was not asked or there is nothing to count."""
        if self.integer is None or not self.quantised_total:
            return None
        return self.integer / self.quantised_total


@dataclass(frozen=True, slots=True, kw_only=True)
class LintReport:
    """What was found in one file."""

    file: str
    form: Signedness | None
    """None where no activation is quantised."""
    layers: dict[str, tuple[int, int]]
    """Conv, MatMul and Gemm -> how many have int8 weights and input, and how many have not."""
    quantize_nodes: int
    dequantize_nodes: int
    findings: tuple[LintFinding, ...]
    macs: Macs | None
    """None where nothing is quantised, or shapes do not follow from the file."""

    @property
    def ok(self) -> bool:
        """Whether there are no errors; warnings do not count."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        macs = self.macs
        return {
            "ok": self.ok,
            "file": self.file,
            "form": self.form and self.form.value,
            "layers": {kind: {"quantised": of[0], "float": of[1]} for kind, of in self.layers.items()},
            "quantize_nodes": self.quantize_nodes,
            "dequantize_nodes": self.dequantize_nodes,
            "macs": macs
            and {
                "quantised_total": macs.quantised_total,
                "integer": macs.integer,
                "share": macs.share,
                "left_float": list(macs.left_float),
            },
            "findings": [
                {"severity": one.severity.value, "rule": one.rule, "message": one.message} for one in self.findings
            ],
        }


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
    graph = _Graph(_load(Path(path)))
    operators = Counter(node.op_type for node in graph.nodes)
    form = _form(graph)
    findings = [*_versions(graph, form), *_valid(graph)]
    if any(finding.rule == "valid" for finding in findings):
        return _report(path, form, [], operators, findings, None)  # it may be cut or have cycles: look no further
    layers = _layers(graph)
    if not any(layer.quantised for layer in layers):
        findings.append(_no_quantised_layer(operators))
    findings += [
        *_activations(graph, form),
        *_doubles(graph),
        *_types(graph, form),
        *(found for layer in layers for found in _weights(graph, layer, form)),
        *(found for layer in layers for found in _biases(graph, layer, form)),
        *_halves(graph, layers, intended),
        *(_missing(layers, intended) if intended is not None else ()),
    ]
    if form is Signedness.UNSIGNED:
        findings += [found for layer in layers for found in _outputs(graph, layer)]
    macs = None
    if any(layer.weight for layer in layers):
        macs, broken = _count(graph, layers, run=run and form is Signedness.UNSIGNED)
        findings += broken
    return _report(path, form, layers, operators, findings, macs)


def _report(
    path: Path | str,
    form: Signedness | None,
    layers: list[_Layer],
    operators: Mapping[str, int],
    findings: list[LintFinding],
    macs: Macs | None,
) -> LintReport:
    return LintReport(
        file=str(path),
        form=form,
        layers={
            kind: (
                sum(layer.quantised for layer in layers if layer.node.op_type == kind),
                sum(not layer.quantised for layer in layers if layer.node.op_type == kind),
            )
            for kind in _LAYERS
            if any(layer.node.op_type == kind for layer in layers)
        },
        quantize_nodes=operators.get("QuantizeLinear", 0),
        dequantize_nodes=operators.get("DequantizeLinear", 0),
        findings=tuple(findings),
        macs=macs,
    )


def _error(rule: str, message: str) -> LintFinding:
    return LintFinding(severity=Severity.ERROR, rule=rule, message=message)


def _warning(rule: str, message: str) -> LintFinding:
    return LintFinding(severity=Severity.WARNING, rule=rule, message=message)


# --- the file --------------------------------------------------------------------------------------------------------


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


class _Graph:
    """A model with who makes and who reads each tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx import numpy_helper

        self.model = model
        self.nodes = list(model.graph.node)
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.tensors[node.output[0]] = node.attribute[0].t
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                if name:
                    self.readers.setdefault(name, []).append(node)
        self.outputs = {info.name for info in model.graph.output}
        self._numpy = numpy_helper
        self._names = {id(node): node.name or f"{node.op_type} number {at}" for at, node in enumerate(self.nodes)}

    def name(self, node: onnx.NodeProto) -> str:
        """How findings call a node."""
        return self._names[id(node)]

    def array(self, name: str) -> np.ndarray | None:
        """Values of a constant, None for other tensors."""
        if name not in self.tensors:
            return None
        array: np.ndarray = self._numpy.to_array(self.tensors[name])
        return array

    def maker(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The node of that kind that makes a tensor."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == kind else None

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


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute."""
    import onnx

    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def _form(graph: _Graph) -> Signedness | None:
    kinds = Counter(zero.dtype for node in graph.activations() if (zero := graph.zero_point(node)) is not None)
    if not kinds:
        return None
    return Signedness.SIGNED if kinds[np.dtype(np.int8)] > kinds[np.dtype(np.uint8)] else Signedness.UNSIGNED


def _versions(graph: _Graph, form: Signedness | None) -> Iterator[LintFinding]:
    model = graph.model
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    needed = _FP16_OPSET if form is Signedness.SIGNED else _AXIS_OPSET
    if opset < needed:
        why = "fp16 scales" if form is Signedness.SIGNED else "scales per channel"
        yield _error("opset", f"expected opset {needed} or newer, which {why} need, found {opset}")
    oldest = MINIMAL_IR.get(opset)
    if oldest is not None and model.ir_version < oldest:
        yield _error("ir-version", f"expected IR version {oldest}, as opset {opset} needs, found {model.ir_version}")
    if oldest is not None and model.ir_version > oldest:
        yield _warning(
            "ir-version", f"expected IR version {oldest}, found {model.ir_version}, which older runtimes refuse"
        )
    foreign = Counter(f"{node.domain}:{node.op_type}" for node in graph.nodes if node.domain not in ("", "ai.onnx"))
    if foreign:
        yield _error("operators", f"expected standard operators only, found {_counts(foreign)}")
    if model.functions:
        yield _error("operators", f"expected plain nodes only, found {len(model.functions)} model functions")
    integer = Counter(node.op_type for node in graph.nodes if node.op_type in _INTEGER_OPERATORS)
    if integer:
        yield _error(
            "operators",
            f"expected QuantizeLinear and DequantizeLinear around float operators, found {_counts(integer)}; "
            "write the file in QDQ format",
        )


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))


def _valid(graph: _Graph) -> Iterator[LintFinding]:
    import onnx

    try:
        onnx.checker.check_model(graph.model)
    except onnx.checker.ValidationError as error:
        yield _error("valid", f"expected a valid ONNX model; onnx.checker says: {str(error).splitlines()[0]}")


def _no_quantised_layer(operators: Mapping[str, int]) -> LintFinding:
    pairs = operators["QuantizeLinear"] + operators["DequantizeLinear"]
    found = f"{pairs} QuantizeLinear and DequantizeLinear nodes around other things" if pairs else "no quantised node"
    return _error("quantised", f"expected at least one layer with int8 weights and input, found {found}")


# --- layers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
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
        return self.weight is not None and self.source is not None


def _layers(graph: _Graph) -> list[_Layer]:
    layers = []
    for node in graph.nodes:
        if node.op_type not in _LAYERS:
            continue
        fixed = [_is_constant(graph, name) for name in node.input[:2]]
        place = 0 if fixed[0] and not fixed[1] else 1
        name = node.input[place]
        weight = graph.maker(name, "DequantizeLinear")
        layers.append(
            _Layer(
                node=node,
                called=name if fixed[place] else graph.name(node),
                place=place,
                weight=weight,
                source=_dequantised(graph, node.input[1 - place]),
            )
        )
    return layers


def _is_constant(graph: _Graph, name: str) -> bool:
    while name not in graph.tensors:
        node = graph.makers.get(name)
        if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear", *_STAYS):
            return False
        name = node.input[0]
    return True


def _dequantised(graph: _Graph, name: str) -> onnx.NodeProto | None:
    node = graph.makers.get(name)
    while node is not None and node.op_type in _STAYS:
        node = graph.makers.get(node.input[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _weights(graph: _Graph, layer: _Layer, form: Signedness | None) -> Iterator[LintFinding]:
    dequantize = layer.weight
    integers = graph.array(dequantize.input[0]) if dequantize is not None else None
    if dequantize is None or integers is None or integers.ndim < 2:
        return
    at, kind = f"weight {layer.called}", layer.node.op_type
    if integers.dtype != np.int8:
        yield _error("weights", f"{at}: expected int8, found {integers.dtype}")
        return
    zero = graph.zero_point(dequantize)
    if zero is None or np.any(zero != 0):
        found = "a computed one" if zero is None else f"{np.unique(zero[zero != 0])[:3].tolist()}"
        yield _error("weight-zero-point", f"{at}: expected zero-point 0, found {found}")
    if integers.min(initial=0) < -WEIGHT_MAX:
        yield _warning("weights", f"{at}: expected values in [-{WEIGHT_MAX}, {WEIGHT_MAX}], found {integers.min()}")
    axis = _output_axis(layer, integers.ndim)
    scale = graph.scale(dequantize)
    if scale is None:
        yield _error("scale", f"{at}: expected a constant scale, found a computed one")
    else:
        yield from _good_scale(at, scale)
        found_axis = int(attribute(dequantize, "axis", 1)) % integers.ndim
        if scale.size == 1 and integers.shape[axis] != 1:
            yield _error(
                "weight-axis",
                f"{at}: expected one scale per output channel ({integers.shape[axis]}), found one for the whole tensor",
            )
        elif scale.ndim and (found_axis != axis or scale.shape != (integers.shape[axis],)):
            yield _error(
                "weight-axis",
                f"{at}: expected {integers.shape[axis]} scales along axis {axis}, the output channels of {kind}, "
                f"found {'x'.join(map(str, scale.shape))} along axis {found_axis}",
            )
    if form is Signedness.UNSIGNED and (kind == "Conv" or integers.ndim == 2):
        largest = _largest_pair(np.moveaxis(integers, axis, 0))
        if largest > PAIR_MAX:
            yield _error(
                "weight-pairs",
                f"{at}: expected neighbours along the input channels to add up to {PAIR_MAX} at most, found {largest}; "
                "this may saturate on processors with AVX2 and no VNNI; make its scales larger",
            )


def _output_axis(layer: _Layer, axes: int) -> int:
    """The output channels' axis of a layer's weight, which has ``axes`` axes."""
    if layer.node.op_type == "Conv" or (layer.node.op_type == "Gemm" and attribute(layer.node, "transB", 0)):
        return 0
    return axes - 1 if layer.place == 1 else axes - 2  # a product; its weight stands right or left


def _products(layer: _Layer, weight: tuple[int, ...]) -> int:
    """Multiply-accumulates for one value of the result."""
    if layer.node.op_type == "Conv":
        return math.prod(weight[1:])
    if len(weight) < 2:
        return weight[0]
    # The two last axes are outputs and inputs, those before them are batches.
    return weight[-1] if _output_axis(layer, len(weight)) % len(weight) == len(weight) - 2 else weight[-2]


def _largest_pair(weight: np.ndarray) -> int:
    """The largest sum of one sign of two neighbours along the input channels of a weight [O, I, ...]."""
    even = weight.shape[1] - weight.shape[1] % 2
    pairs = weight[:, :even].astype(np.int32).reshape(weight.shape[0], even // 2, 2, -1)
    positive, negative = pairs.clip(min=0).sum(axis=2), -pairs.clip(max=0).sum(axis=2)
    return int(max(positive.max(initial=0), negative.max(initial=0)))


def _good_scale(at: str, scale: np.ndarray) -> Iterator[LintFinding]:
    if not np.isfinite(scale).all() or scale.min(initial=np.inf) <= 0:
        bad = scale[~(np.isfinite(scale) & (scale > 0))].ravel()[:3].tolist()
        yield _error("scale", f"{at}: expected finite scales above zero, found {', '.join(map(str, bad))}")


def _biases(graph: _Graph, layer: _Layer, form: Signedness | None) -> Iterator[LintFinding]:
    node = layer.node
    if form is Signedness.SIGNED and layer.weight is not None:
        yield from _signed_bias(graph, layer)
    if form is not Signedness.UNSIGNED or not layer.quantised or len(node.input) < 3 or not node.input[2]:
        return
    assert layer.source is not None
    assert layer.weight is not None
    at = f"bias {node.input[2]} of {layer.called}"
    bias = graph.maker(node.input[2], "DequantizeLinear")
    if bias is None:
        if _only_quantised(graph, node):
            yield _warning(
                "bias",
                f"{at}: expected int32 on the grid of the products, found floats; older versions of ONNX Runtime run "
                "such a convolution in float, newer ones round the bias by themselves",
            )
        return
    integers, scale = graph.array(bias.input[0]), graph.scale(bias)
    if integers is None or integers.dtype != np.int32:
        yield _error("bias", f"{at}: expected int32, found {'a computed one' if integers is None else integers.dtype}")
        return
    zero = graph.zero_point(bias)
    if zero is None or np.any(zero != 0):
        yield _error("bias", f"{at}: expected zero-point 0, found another")
    scales = graph.scale(layer.source), graph.scale(layer.weight)
    if scale is None or scales[0] is None or scales[1] is None:
        yield _error("scale", f"{at}: expected constant scales, found computed ones")
        return
    wanted = scales[0].astype(np.float64) * scales[1].astype(np.float64)
    if scale.size != wanted.size or not np.allclose(scale.ravel(), wanted.ravel(), rtol=1e-5, atol=0):
        yield _error(
            "bias",
            f"{at}: expected the input's scale times the weight's, found another; "
            "integer kernels add the bias as it is and would compute another picture",
        )


def _signed_bias(graph: _Graph, layer: _Layer) -> Iterator[LintFinding]:
    """Dequantised int32 beside a layer: its third input, or what is added to its result."""
    names = list(layer.node.input[2:3])
    for reader in graph.readers.get(layer.node.output[0], []):
        names += [name for name in reader.input if reader.op_type == "Add" and name != layer.node.output[0]]
    for name in names:
        bias = graph.maker(name, "DequantizeLinear")
        if bias is not None and _is_constant(graph, name):
            yield _error(
                "bias", f"bias {name} of {layer.called}: expected floats, which TensorRT wants, found integers"
            )


def _only_quantised(graph: _Graph, node: onnx.NodeProto) -> bool:
    """Whether a node's result is read by QuantizeLinear only, moved at most."""
    name = node.output[0]
    readers = graph.readers.get(name, [])
    if not readers or name in graph.outputs:
        return False
    return all(
        one.op_type == "QuantizeLinear" or (one.op_type in _STAYS and _only_quantised(graph, one)) for one in readers
    )


def _outputs(graph: _Graph, layer: _Layer) -> Iterator[LintFinding]:
    node = layer.node
    if not layer.quantised or node.op_type != "Conv" or _only_quantised(graph, node):
        return
    readers = Counter(one.op_type for one in graph.readers.get(node.output[0], []))
    others = {kind: count for kind, count in readers.items() if kind != "QuantizeLinear"}
    yield _error(
        "output",
        f"{layer.called}: expected its result to be quantised at once, found "
        f"{_counts(others) or 'the output of the graph'} reading it; ONNX Runtime runs such a convolution in float",
    )


def _halves(graph: _Graph, layers: list[_Layer], intended: Collection[str] | None) -> Iterator[LintFinding]:
    for layer in layers:
        if (layer.weight is None) == (layer.source is None):
            continue
        if intended is not None and (layer.called in intended or layer.weight is None):
            continue  # it is reported as missing, or meant to be float
        if layer.weight is not None:
            yield _error(
                "half-quantised",
                f"{layer.called}: expected its input from a DequantizeLinear, as its weights are, found a float input",
            )
        elif _feeds_quantised(graph, layer.node):
            # A float layer with nothing quantised behind it is the float end of the network, which makes the picture.
            yield _error(
                "half-quantised",
                f"{layer.called}: expected int8 weights, as its input is and what follows it, found float weights",
            )


def _feeds_quantised(graph: _Graph, node: onnx.NodeProto) -> bool:
    waiting, seen = [node], {id(node)}
    while waiting:
        for name in waiting.pop().output:
            for reader in graph.readers.get(name, []):
                if reader.op_type == "QuantizeLinear":
                    return True
                if id(reader) not in seen:
                    seen.add(id(reader))
                    waiting.append(reader)
    return False


def _missing(layers: list[_Layer], intended: Collection[str]) -> Iterator[LintFinding]:
    by_name: dict[str, list[_Layer]] = {}
    for layer in layers:
        by_name.setdefault(layer.called, []).append(layer)
    for name in sorted(intended):
        if name not in by_name:
            yield _error("intended", f"{name}: expected a layer with this weight in int8, found none")
        for layer in by_name.get(name, []):
            float_sides = [
                side for side, maker in (("weights", layer.weight), ("input", layer.source)) if maker is None
            ]
            if float_sides:
                yield _error("intended", f"{name}: expected weights and input in int8, found float {_and(float_sides)}")


def _and(words: list[str]) -> str:
    return " and ".join(words)


# --- activations -----------------------------------------------------------------------------------------------------


def _activations(graph: _Graph, form: Signedness | None) -> Iterator[LintFinding]:
    wanted = np.int8(0) if form is Signedness.SIGNED else np.uint8(UNSIGNED_ZERO_POINT)
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear" and node.input[0] in graph.tensors:
            yield _error(
                "weights-as-floats",
                f"{graph.name(node)}: expected weights stored as int8 behind a DequantizeLinear, "
                f"found QuantizeLinear on the constant {node.input[0]}",
            )
    for node in graph.activations():
        at = f"{node.op_type} {graph.name(node)}"
        scale, zero = graph.scale(node), graph.zero_point(node)
        if scale is None or zero is None:
            yield _error("scale", f"{at}: expected a constant scale and zero-point, found a computed one")
            continue
        if scale.size != 1:
            yield _error("activation-axis", f"{at}: expected one scale for the whole tensor, found {scale.size}")
        yield from _good_scale(at, scale)
        if zero.dtype != wanted.dtype:
            yield _error(
                "signedness", f"{at}: expected {wanted.dtype} as everywhere else in the file, found {zero.dtype}"
            )
        elif np.any(zero != wanted):
            yield _error(
                "zero-point", f"{at}: expected zero-point {wanted}, found {', '.join(map(str, np.unique(zero)[:3]))}"
            )
        source = graph.maker(node.input[0], "QuantizeLinear") if node.op_type == "DequantizeLinear" else None
        if source is not None and not graph.same_grid(source, node):
            yield _error("pair", f"{at}: expected scale and zero-point of {graph.name(source)} before it, found others")


def _doubles(graph: _Graph) -> Iterator[LintFinding]:
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear":
            continue
        direct = graph.maker(node.input[0], "DequantizeLinear")
        if direct is not None:
            yield _error(
                "double", f"{graph.name(node)}: expected values off the grid, found those of {graph.name(direct)} again"
            )
            continue
        for origin in _origins(graph, node.input[0]):
            if not graph.same_grid(origin, node):
                yield _error(
                    "double",
                    f"{graph.name(node)}: expected the grid of {graph.name(origin)}, whose values were only moved, "
                    "found another: they would be rounded twice",
                )


def _origins(graph: _Graph, name: str) -> list[onnx.NodeProto]:
    """The DequantizeLinear nodes whose values a tensor holds, moved only."""
    node = graph.makers.get(name)
    if node is None:
        return []
    if node.op_type == "DequantizeLinear":
        return [node]
    if node.op_type not in _MOVES:
        return []
    names = node.input if node.op_type == "Concat" else node.input[:1]
    return [origin for name in names for origin in _origins(graph, name)]


def _types(graph: _Graph, form: Signedness | None) -> Iterator[LintFinding]:
    import onnx

    if form is None:
        return
    kinds = onnx.TensorProto
    wanted = kinds.FLOAT16 if form is Signedness.SIGNED else kinds.FLOAT
    floats = {kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE}
    found = [
        (what, info.name, info.type.tensor_type.elem_type)
        for what, infos in (("input", graph.model.graph.input), ("output", graph.model.graph.output))
        for info in infos
    ]
    fixed = {name for node in graph.nodes if node.op_type == "Resize" for name in node.input[1:3]}  # always float32
    found += [("constant", name, tensor.data_type) for name, tensor in graph.tensors.items() if name not in fixed]
    found += [
        ("Cast", graph.name(node), int(attribute(node, "to", 0))) for node in graph.nodes if node.op_type == "Cast"
    ]
    for what, name, kind in found:
        if kind in floats and kind != wanted:
            names = (kinds.DataType.Name(one).lower() for one in (wanted, kind))
            yield _error("types", "{} {}: expected {}, found {}".format(what, name, *names))


# --- multiply-accumulates --------------------------------------------------------------------------------------------


def _count(graph: _Graph, layers: list[_Layer], *, run: bool) -> tuple[Macs | None, list[LintFinding]]:
    """Count by layer; ``run`` asks ONNX Runtime which of them it runs in integers."""
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
        return None, [_error("shapes", f"expected shapes to follow from the file: {str(error).splitlines()[0]}")]
    shapes = {
        info.name: tuple(axis.dim_value for axis in info.type.tensor_type.shape.dim)
        for info in (*inferred.value_info, *inferred.output, *inferred.input)
    }
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    work = {numbers[id(layer.node)]: _work(layer, shapes) for layer in layers if layer.weight is not None}
    unknown = [layer.called for layer in layers if layer.weight is not None and not work[numbers[id(layer.node)]]]
    if unknown:
        return None, [_error("shapes", f"expected shapes to follow from the file, found none for {_few(unknown)}")]
    total = sum(work.values())
    if not run:
        return Macs(quantised_total=total, integer=None), []
    try:
        # With the file's own axes: what ONNX Runtime fuses depends on whether they are free.
        done = _in_integers(named)
    except Exception as error:  # noqa: BLE001 (ONNX Runtime has its own classes, all of them mean that it cannot)
        return Macs(quantised_total=total, integer=None), [
            _error("runs", f"expected a file that ONNX Runtime can open: {str(error).splitlines()[0]}")
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
        _error(
            "integer-share",
            f"expected at least {MAC_SHARE:.0%} of the multiply-accumulates of quantised layers in integer kernels of "
            f"ONNX Runtime, found {share:.1%}; it runs in float: {_few(left)}",
        )
    ]


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _work(layer: _Layer, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates: outputs times what goes into each; 0 where a shape is unknown."""
    weight, result = shapes.get(layer.node.input[layer.place]), shapes.get(layer.node.output[0])
    if not weight or not result:
        return 0
    return math.prod(result) * _products(layer, weight)


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
        re.match(r"lint/(\d+)(?!\d)", node.name) for node in optimised.graph.node if node.op_type in _INTEGER_OPERATORS
    )
    return {int(match[1]) for match in found if match}
