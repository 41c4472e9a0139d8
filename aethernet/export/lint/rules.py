"""Rules about a quantised file's nodes, constants and versions; each yields what it finds broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from aethernet.export.lint.graph import QuantizedGraph, QuantizedLayer, is_constant, output_axis
from aethernet.export.lint.report import LintFinding, Signedness, lint_error, lint_warning
from aethernet.graphs.contract import MINIMAL_IR
from aethernet.graphs.reading import REARRANGING, attribute
from aethernet.quantization.scheme import PAIR_MAX, UNSIGNED_ZERO_POINT, WEIGHT_MAX

if TYPE_CHECKING:
    import onnx

__all__ = ["INTEGER_OPERATORS", "check_file", "check_layers"]

_MOVES = (*REARRANGING, "Concat", "DepthToSpace", "Slice", "SpaceToDepth", "Split")
"""Operators that move values and change none."""


INTEGER_OPERATORS = (
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
)


_FP16_OPSET = 19
"""The first with fp16 scales."""


_AXIS_OPSET = 13
"""The first with scales per channel."""


def check_file(graph: QuantizedGraph, form: Signedness | None) -> list[LintFinding]:
    """Versions, operators and what onnx.checker finds.

    Where a finding's rule is ``valid``, the file may be cut or have cycles, and no other rule can be asked.
    """
    return [*_versions(graph, form), *_valid(graph)]


def check_layers(
    graph: QuantizedGraph, layers: list[QuantizedLayer], form: Signedness | None, intended: Collection[str] | None
) -> list[LintFinding]:
    """All rules about a valid graph's nodes; ``intended`` as for :func:`aethernet.export.lint.lint_onnx`."""
    findings = [] if any(layer.quantised for layer in layers) else [_no_quantised_layer(graph)]
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
    return findings


def _versions(graph: QuantizedGraph, form: Signedness | None) -> Iterator[LintFinding]:
    model = graph.model
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    needed = _FP16_OPSET if form is Signedness.SIGNED else _AXIS_OPSET
    if opset < needed:
        why = "fp16 scales" if form is Signedness.SIGNED else "scales per channel"
        yield lint_error("opset", f"expected opset {needed} or newer, which {why} need, found {opset}")
    oldest = MINIMAL_IR.get(opset)
    if oldest is not None and model.ir_version < oldest:
        yield lint_error(
            "ir-version", f"expected IR version {oldest}, as opset {opset} needs, found {model.ir_version}"
        )
    if oldest is not None and model.ir_version > oldest:
        yield lint_warning(
            "ir-version", f"expected IR version {oldest}, found {model.ir_version}, which older runtimes refuse"
        )
    others = Counter(f"{node.domain}:{node.op_type}" for node in graph.nodes if node.domain not in ("", "ai.onnx"))
    if others:
        yield lint_error("operators", f"expected standard operators only, found {_counts(others)}")
    if model.functions:
        yield lint_error("operators", f"expected plain nodes only, found {len(model.functions)} model functions")
    integer = Counter(node.op_type for node in graph.nodes if node.op_type in INTEGER_OPERATORS)
    if integer:
        yield lint_error(
            "operators",
            f"expected QuantizeLinear and DequantizeLinear around float operators, found {_counts(integer)}; "
            "write the file in QDQ format",
        )


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))


def _valid(graph: QuantizedGraph) -> Iterator[LintFinding]:
    import onnx

    try:
        onnx.checker.check_model(graph.model)
    except onnx.checker.ValidationError as error:
        yield lint_error("valid", f"expected a valid ONNX model; onnx.checker says: {str(error).splitlines()[0]}")


def _no_quantised_layer(graph: QuantizedGraph) -> LintFinding:
    pairs = sum(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.nodes)
    found = f"{pairs} QuantizeLinear and DequantizeLinear nodes around other things" if pairs else "no quantised node"
    return lint_error("quantised", f"expected at least one layer with int8 weights and input, found {found}")


def _weights(graph: QuantizedGraph, layer: QuantizedLayer, form: Signedness | None) -> Iterator[LintFinding]:
    dequantize = layer.weight
    integers = graph.array(dequantize.input[0]) if dequantize is not None else None
    if dequantize is None or integers is None or integers.ndim < 2:
        return
    at, kind = f"weight {layer.called}", layer.node.op_type
    if integers.dtype != np.int8:
        yield lint_error("weights", f"{at}: expected int8, found {integers.dtype}")
        return
    zero = graph.zero_point(dequantize)
    if zero is None or np.any(zero != 0):
        found = "a computed one" if zero is None else f"{np.unique(zero[zero != 0])[:3].tolist()}"
        yield lint_error("weight-zero-point", f"{at}: expected zero-point 0, found {found}")
    if integers.min(initial=0) < -WEIGHT_MAX:
        yield lint_warning("weights", f"{at}: expected values in [-{WEIGHT_MAX}, {WEIGHT_MAX}], found {integers.min()}")
    axis = output_axis(layer, integers.ndim)
    scale = graph.scale(dequantize)
    if scale is None:
        yield lint_error("scale", f"{at}: expected a constant scale, found a computed one")
    else:
        yield from _good_scale(at, scale)
        found_axis = int(attribute(dequantize, "axis", 1)) % integers.ndim
        if scale.size == 1 and integers.shape[axis] != 1:
            yield lint_error(
                "weight-axis",
                f"{at}: expected one scale per output channel ({integers.shape[axis]}), found one for the whole tensor",
            )
        elif scale.ndim and (found_axis != axis or scale.shape != (integers.shape[axis],)):
            yield lint_error(
                "weight-axis",
                f"{at}: expected {integers.shape[axis]} scales along axis {axis}, the output channels of {kind}, "
                f"found {'x'.join(map(str, scale.shape))} along axis {found_axis}",
            )
    if form is Signedness.UNSIGNED and (kind == "Conv" or integers.ndim == 2):
        largest = _largest_pair(np.moveaxis(integers, axis, 0))
        if largest > PAIR_MAX:
            yield lint_error(
                "weight-pairs",
                f"{at}: expected neighbours along the input channels to add up to {PAIR_MAX} at most, found {largest}; "
                "this may saturate on processors with AVX2 and no VNNI; make its scales larger",
            )


def _largest_pair(weight: np.ndarray) -> int:
    """The largest sum of one sign of two neighbours along the input channels of a weight [O, I, ...]."""
    even = weight.shape[1] - weight.shape[1] % 2
    pairs = weight[:, :even].astype(np.int32).reshape(weight.shape[0], even // 2, 2, -1)
    positive, negative = pairs.clip(min=0).sum(axis=2), -pairs.clip(max=0).sum(axis=2)
    return int(max(positive.max(initial=0), negative.max(initial=0)))


def _good_scale(at: str, scale: np.ndarray) -> Iterator[LintFinding]:
    if not np.isfinite(scale).all() or scale.min(initial=np.inf) <= 0:
        bad = scale[~(np.isfinite(scale) & (scale > 0))].ravel()[:3].tolist()
        yield lint_error("scale", f"{at}: expected finite scales above zero, found {', '.join(map(str, bad))}")


def _biases(graph: QuantizedGraph, layer: QuantizedLayer, form: Signedness | None) -> Iterator[LintFinding]:
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
            yield lint_warning(
                "bias",
                f"{at}: expected int32 on the grid of the products, found floats; older versions of ONNX Runtime run "
                "such a convolution in float, newer ones round the bias by themselves",
            )
        return
    integers, scale = graph.array(bias.input[0]), graph.scale(bias)
    if integers is None or integers.dtype != np.int32:
        yield lint_error(
            "bias", f"{at}: expected int32, found {'a computed one' if integers is None else integers.dtype}"
        )
        return
    zero = graph.zero_point(bias)
    if zero is None or np.any(zero != 0):
        yield lint_error("bias", f"{at}: expected zero-point 0, found another")
    scales = graph.scale(layer.source), graph.scale(layer.weight)
    if scale is None or scales[0] is None or scales[1] is None:
        yield lint_error("scale", f"{at}: expected constant scales, found computed ones")
        return
    wanted = scales[0].astype(np.float64) * scales[1].astype(np.float64)
    if scale.size != wanted.size or not np.allclose(scale.ravel(), wanted.ravel(), rtol=1e-5, atol=0):
        yield lint_error(
            "bias",
            f"{at}: expected the input's scale times the weight's, found another; "
            "integer kernels add the bias as it is and would compute another image",
        )


def _signed_bias(graph: QuantizedGraph, layer: QuantizedLayer) -> Iterator[LintFinding]:
    """Dequantised int32 beside a layer: its third input, or what is added to its result."""
    names = list(layer.node.input[2:3])
    for reader in graph.readers.get(layer.node.output[0], []):
        names += [name for name in reader.input if reader.op_type == "Add" and name != layer.node.output[0]]
    for name in names:
        bias = graph.maker(name, "DequantizeLinear")
        if bias is not None and is_constant(graph, name):
            yield lint_error(
                "bias", f"bias {name} of {layer.called}: expected floats, which TensorRT wants, found integers"
            )


def _only_quantised(graph: QuantizedGraph, node: onnx.NodeProto) -> bool:
    """Whether a node's result is read by QuantizeLinear only, moved at most."""
    name = node.output[0]
    readers = graph.readers.get(name, [])
    if not readers or name in graph.outputs:
        return False
    return all(
        one.op_type == "QuantizeLinear" or (one.op_type in REARRANGING and _only_quantised(graph, one))
        for one in readers
    )


def _outputs(graph: QuantizedGraph, layer: QuantizedLayer) -> Iterator[LintFinding]:
    node = layer.node
    if not layer.quantised or node.op_type != "Conv" or _only_quantised(graph, node):
        return
    readers = Counter(one.op_type for one in graph.readers.get(node.output[0], []))
    others = {kind: count for kind, count in readers.items() if kind != "QuantizeLinear"}
    yield lint_error(
        "output",
        f"{layer.called}: expected its result to be quantised at once, found "
        f"{_counts(others) or 'the output of the graph'} reading it; ONNX Runtime runs such a convolution in float",
    )


def _halves(
    graph: QuantizedGraph, layers: list[QuantizedLayer], intended: Collection[str] | None
) -> Iterator[LintFinding]:
    for layer in layers:
        if (layer.weight is None) == (layer.source is None):
            continue
        if intended is not None and (layer.called in intended or layer.weight is None):
            continue  # it is reported as missing, or meant to be float
        if layer.weight is not None:
            yield lint_error(
                "half-quantised",
                f"{layer.called}: expected its input from a DequantizeLinear, as its weights are, found a float input",
            )
        elif _feeds_quantised(graph, layer.node):
            # A float layer with nothing quantised behind it is the float end of the network, which makes the image.
            yield lint_error(
                "half-quantised",
                f"{layer.called}: expected int8 weights, as its input is and what follows it, found float weights",
            )


def _feeds_quantised(graph: QuantizedGraph, node: onnx.NodeProto) -> bool:
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


def _missing(layers: list[QuantizedLayer], intended: Collection[str]) -> Iterator[LintFinding]:
    by_name: dict[str, list[QuantizedLayer]] = {}
    for layer in layers:
        by_name.setdefault(layer.called, []).append(layer)
    for name in sorted(intended):
        if name not in by_name:
            yield lint_error("intended", f"{name}: expected a layer with this weight in int8, found none")
        for layer in by_name.get(name, []):
            float_sides = [
                side for side, maker in (("weights", layer.weight), ("input", layer.source)) if maker is None
            ]
            if float_sides:
                yield lint_error(
                    "intended", f"{name}: expected weights and input in int8, found float {' and '.join(float_sides)}"
                )


def _activations(graph: QuantizedGraph, form: Signedness | None) -> Iterator[LintFinding]:
    wanted = np.int8(0) if form is Signedness.SIGNED else np.uint8(UNSIGNED_ZERO_POINT)
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear" and node.input[0] in graph.tensors:
            yield lint_error(
                "weights-as-floats",
                f"{graph.name(node)}: expected weights stored as int8 behind a DequantizeLinear, "
                f"found QuantizeLinear on the constant {node.input[0]}",
            )
    for node in graph.activations():
        at = f"{node.op_type} {graph.name(node)}"
        scale, zero = graph.scale(node), graph.zero_point(node)
        if scale is None or zero is None:
            yield lint_error("scale", f"{at}: expected a constant scale and zero-point, found a computed one")
            continue
        if scale.size != 1:
            yield lint_error("activation-axis", f"{at}: expected one scale for the whole tensor, found {scale.size}")
        yield from _good_scale(at, scale)
        if zero.dtype != wanted.dtype:
            yield lint_error(
                "signedness", f"{at}: expected {wanted.dtype} as everywhere else in the file, found {zero.dtype}"
            )
        elif np.any(zero != wanted):
            yield lint_error(
                "zero-point", f"{at}: expected zero-point {wanted}, found {', '.join(map(str, np.unique(zero)[:3]))}"
            )
        source = graph.maker(node.input[0], "QuantizeLinear") if node.op_type == "DequantizeLinear" else None
        if source is not None and not graph.same_grid(source, node):
            yield lint_error(
                "pair", f"{at}: expected scale and zero-point of {graph.name(source)} before it, found others"
            )


def _doubles(graph: QuantizedGraph) -> Iterator[LintFinding]:
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear":
            continue
        direct = graph.maker(node.input[0], "DequantizeLinear")
        if direct is not None:
            yield lint_error(
                "double", f"{graph.name(node)}: expected values off the grid, found those of {graph.name(direct)} again"
            )
            continue
        for origin in _origins(graph, node.input[0]):
            if not graph.same_grid(origin, node):
                yield lint_error(
                    "double",
                    f"{graph.name(node)}: expected the grid of {graph.name(origin)}, whose values were only moved, "
                    "found another: they would be rounded twice",
                )


def _origins(graph: QuantizedGraph, name: str) -> list[onnx.NodeProto]:
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


def _types(graph: QuantizedGraph, form: Signedness | None) -> Iterator[LintFinding]:
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
            yield lint_error("types", "{} {}: expected {}, found {}".format(what, name, *names))
