"""The lint for int8 ONNX files: good files of every generation, then one defect at a time."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aethernet.errors import UsageError
from aethernet.export import ExportConfig
from aethernet.export.int8 import export_int8, trace_int8
from aethernet.export.lint import LintReport, Severity, Signedness, lint_onnx
from aethernet.networks import AetherNet
from aethernet.networks.fusion import fuse
from aethernet.quantization.calibration import choose_range, watch
from aethernet.quantization.modules import Mode, set_mode
from aethernet.quantization.structure import convs_of, quantizers_of, restructure
from tests.support.networks import tiny_network

GATE = "stages.0.0.ffn.conv_gate.weight"
OUT = "stages.0.0.ffn.conv_out.weight"
TAIL = "upsample.blocks.0.weight"
"""Generation 2: the layers that are damaged below; the last has most of the multiply-accumulates."""

Model = onnx.ModelProto
Edit = Callable[[Model], None]
Lint = Callable[..., LintReport]


def quantised(generation: int) -> AetherNet:
    """Calibrated on noise, every weight random: what matters here is how it is written down."""
    depths = (1,) if generation == 1 else (1, 1)
    network = restructure(fuse(tiny_network(generation, scale=4, depths=depths, embed_dim=8, hidden_channels=8)))
    picture = np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32)
    quantizers = quantizers_of(network)
    seen = watch(network, quantizers, [picture])
    for name, quantizer in quantizers.items():
        quantizer.scale.data.fill_(choose_range(seen[name]).scale)
    set_mode(network, Mode.ON)
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, Signedness], Path]:
    """Export once: ``exported(generation, form)``; an export takes some seconds."""
    folder = tmp_path_factory.mktemp("int8")

    @functools.cache
    def traced(generation: int) -> tuple[AetherNet, onnx.ModelProto]:
        network = quantised(generation)
        return network, trace_int8(network, ExportConfig())

    @functools.cache
    def export(generation: int, form: Signedness) -> Path:
        path = folder / f"gen{generation}_{form}.onnx"
        network, graph = traced(generation)
        export_int8(network, path, ExportConfig(), {}, tensorrt=form is Signedness.SIGNED, traced=graph)
        return path

    return export


@pytest.fixture
def lint(exported: Callable[[int, Signedness], Path], tmp_path: Path) -> Lint:
    """``lint(edit, form)``: the report about generation 2's good file after an edit."""

    def run(edit: Edit, form: Signedness = Signedness.UNSIGNED, **options: object) -> LintReport:
        model = onnx.load(exported(2, form))
        edit(model)
        onnx.save(model, tmp_path / "edited.onnx")
        return lint_onnx(tmp_path / "edited.onnx", **{"run": False, **options})  # type: ignore[arg-type]

    return run


def errors(report: LintReport) -> set[str]:
    return {finding.rule for finding in report.findings if finding.severity is Severity.ERROR}


def messages(report: LintReport, rule: str) -> str:
    return "\n".join(finding.message for finding in report.findings if finding.rule == rule)


# --- edits -----------------------------------------------------------------------------------------------------------


def maker(model: Model, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.output)


def reader(model: Model, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.input)


def value(model: Model, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def replace(model: Model, name: str, array: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def add(model: Model, name: str, array: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def insert_after(model: Model, name: str, kind: str, **attributes: object) -> None:
    """A node of that kind between a tensor and all its readers."""
    for node in model.graph.node:
        for place, read in enumerate(node.input):
            if read == name:
                node.input[place] = f"{name}/edited"
    place = next(at for at, node in enumerate(model.graph.node) if name in node.output) + 1
    node = helper.make_node(kind, [name], [f"{name}/edited"], name=f"{kind}/edited", **attributes)
    model.graph.node.insert(place, node)


def round_again(model: Model, *, moved: bool, scale: float | None) -> None:
    """Another Q and DQ behind the first DQ of an activation, on a grid of that scale or the same one."""
    made = {name for node in model.graph.node if node.op_type == "QuantizeLinear" for name in node.output}
    first = next(node for node in model.graph.node if node.input[0] in made)
    grid = list(first.input[1:])
    if scale is not None:
        grid[0] = add(model, "other_scale", np.array(scale, np.float32))
    name = first.output[0]
    insert_after(model, name, "Identity")
    node = maker(model, f"{name}/edited")
    place = list(model.graph.node).index(node)
    model.graph.node.remove(node)
    q = helper.make_node("QuantizeLinear", [f"{name}/moved" if moved else name, *grid], [f"{name}/q"], name="again")
    dq = helper.make_node("DequantizeLinear", [f"{name}/q", *grid], [f"{name}/edited"], name="again back")
    turn = [helper.make_node("Identity", [name], [f"{name}/moved"])] if moved else []
    for offset, new in enumerate([*turn, q, dq]):
        model.graph.node.insert(place + offset, new)


def strip_everything(model: Model) -> None:
    """Every Q and DQ out, weights as floats."""
    renamed: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] in renamed:
            renamed[node.output[0]] = renamed[node.input[0]]
        elif node.op_type == "DequantizeLinear":
            axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
            integers, scale = value(model, node.input[0]), value(model, node.input[1])
            shape = [-1 if at == axis else 1 for at in range(integers.ndim)]
            add(model, node.output[0], (integers * scale.reshape(shape)).astype(scale.dtype))
        else:
            kept.append(node)
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def float_weight(model: Model, name: str) -> None:
    """One layer's weight as floats, no DQ."""
    node = maker(model, name)
    weight, scale = value(model, node.input[0]), value(model, node.input[1])
    model.graph.node.remove(node)
    add(model, name, (weight * scale.reshape(-1, 1, 1, 1)).astype(scale.dtype))


def float_input(model: Model, name: str) -> None:
    """One layer's input from before its Q and DQ."""
    layer = reader(model, name)
    quantize = maker(model, maker(model, layer.input[0]).input[0])
    assert quantize.op_type == "QuantizeLinear"
    layer.input[0] = quantize.input[0]


def weights_behind_quantize(model: Model, name: str) -> None:
    node = maker(model, name)
    scale = value(model, node.input[1])
    floats = (value(model, node.input[0]) * scale.reshape(-1, 1, 1, 1)).astype(scale.dtype)
    add(model, f"{name}_float", floats)
    quantize = helper.make_node(
        "QuantizeLinear", [f"{name}_float", *node.input[1:]], [f"{name}_q"], name=f"quantize/{name}", axis=0
    )
    node.input[0] = f"{name}_q"
    model.graph.node.insert(0, quantize)


def int32_bias(model: Model, name: str, factor: float = 1.0) -> None:
    """Give a layer a bias in int32."""
    layer = reader(model, name)
    outputs = value(model, maker(model, name).input[1])
    source = maker(model, layer.input[0])
    grid = (outputs * value(model, source.input[1]) * factor).astype(outputs.dtype)
    add(model, "edited_bias", np.ones(outputs.shape, np.int32))
    add(model, "edited_bias_scale", grid)
    layer.input[2] = "edited_bias_floats"
    node = helper.make_node(
        "DequantizeLinear", ["edited_bias", "edited_bias_scale"], ["edited_bias_floats"], name="bias", axis=0
    )
    model.graph.node.insert(0, node)


def set_axis(model: Model, name: str, axis: int) -> None:
    next(one for one in maker(model, name).attribute if one.name == "axis").i = axis


def set_zero_points(model: Model, zero: np.ndarray, *, only_first: bool = False) -> None:
    """Another zero-point for all activations, or for one Q and its DQ."""
    add(model, "edited_zero_point", zero)
    quantize = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    for node in quantize[:1] if only_first else quantize:
        node.input[2] = "edited_zero_point"
        for back in model.graph.node:
            if node.output[0] in back.input:
                back.input[2] = "edited_zero_point"


def edit_weight(model: Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    replace(model, f"{name}_int8", change(value(model, f"{name}_int8").copy()))


def edit_scale(model: Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    replace(model, f"{name}_scale", change(value(model, f"{name}_scale").copy()))


# --- good files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "form"),
    [
        (2, Signedness.UNSIGNED),
        (2, Signedness.SIGNED),
        pytest.param(1, Signedness.UNSIGNED, marks=pytest.mark.slow),
        pytest.param(3, Signedness.SIGNED, marks=pytest.mark.slow),
    ],
)
def test_a_good_file_has_no_errors(exported, generation: int, form: Signedness) -> None:
    intended = {f"{name}.weight" for name, _ in convs_of(quantised(generation))}

    report = lint_onnx(exported(generation, form), intended=intended)

    assert errors(report) == set(), report.findings
    assert report.form is form
    assert sum(quantised for quantised, _ in report.layers.values()) == len(intended)
    assert lint_onnx(exported(generation, form)).ok, "nor without knowing what was intended"


def test_the_census_counts_layers_and_nodes(exported) -> None:
    unsigned, signed = (lint_onnx(exported(2, form), run=False) for form in (Signedness.UNSIGNED, Signedness.SIGNED))
    gates, shares, rest = 2, 2, 4  # two blocks of three layers; stages; fusion, body, before upsampling, upsampling
    plain = 2 + 2 + 8  # two depthwise kernels, the first and the last layer, two on each edge of the picture

    assert unsigned.layers == {"Conv": (gates * 2 + shares + rest, plain), "MatMul": (gates, 0)}
    assert signed.layers == {"Conv": (gates * 3 + shares + rest, plain)}
    assert signed.quantize_nodes == unsigned.quantize_nodes == signed.dequantize_nodes - 12, "one DQ more per weight"


def test_integer_kernels_do_all_the_work_of_quantised_layers(exported) -> None:
    report = lint_onnx(exported(2, Signedness.UNSIGNED))
    network = quantised(2)
    per_pixel = sum(conv.weight.numel() for _, conv in convs_of(network))

    assert report.macs is not None
    assert report.macs.quantised_total == per_pixel * 32 * 32
    assert report.macs.share == 1
    assert report.macs.left_float == ()


def test_the_signed_form_is_counted_and_not_run(exported) -> None:
    macs = lint_onnx(exported(2, Signedness.SIGNED)).macs
    other = lint_onnx(exported(2, Signedness.UNSIGNED), run=False).macs

    assert macs is not None
    assert macs == other
    assert macs.integer is None
    assert macs.share is None


def test_a_report_is_json(exported) -> None:
    report = json.loads(json.dumps(lint_onnx(exported(2, Signedness.UNSIGNED)).to_json()))

    assert report["ok"]
    assert report["form"] == "unsigned"
    assert report["macs"]["share"] == 1
    assert report["layers"]["MatMul"] == {"quantised": 2, "float": 0}


# --- one defect at a time --------------------------------------------------------------------------------------------

UNSIGNED: dict[str, tuple[Edit, set[str]]] = {
    "every Q and DQ is gone": (strip_everything, {"quantised"}),
    "zero-points are shifted": (partial(set_zero_points, zero=np.array(127, np.uint8)), {"zero-point"}),
    "one activation is signed": (partial(set_zero_points, zero=np.array(0, np.int8), only_first=True), {"signedness"}),
    "weights are on the wrong axis": (partial(set_axis, name=GATE, axis=1), {"weight-axis"}),
    "a product's weights are on the wrong axis": (partial(set_axis, name=OUT, axis=0), {"weight-axis"}),
    "weights have one scale": (
        lambda model: edit_scale(model, OUT, lambda scale: np.array(scale[0])),
        {"weight-axis"},
    ),
    "weights are shifted": (
        lambda model: replace(model, f"{OUT}_zero_point", np.full(8, 3, np.int8)),
        {"weight-zero-point"},
    ),
    "a scale is zero": (lambda model: edit_scale(model, OUT, lambda scale: scale * 0), {"scale"}),
    "a scale is infinite": (lambda model: edit_scale(model, OUT, lambda scale: scale + np.inf), {"scale"}),
    "weights are shipped as floats": (partial(weights_behind_quantize, name=GATE), {"weights-as-floats"}),
    "a bias is on another grid": (partial(int32_bias, name="conv_after_body.weight", factor=1.01), {"bias"}),
    "a value is rounded twice on one grid": (partial(round_again, moved=False, scale=None), {"double"}),
    "a value is rounded twice": (partial(round_again, moved=False, scale=0.5), {"double", "bias"}),
    "a value is moved and rounded on another grid": (partial(round_again, moved=True, scale=0.5), {"double", "bias"}),
    "a value is moved and put on its grid again": (partial(round_again, moved=True, scale=None), set()),
    "a layer's weights are float": (partial(float_weight, name="conv_after_body.weight"), {"half-quantised"}),
    "a layer's input is float": (partial(float_input, name="conv_after_body.weight"), {"half-quantised"}),
    "neighbouring weights may saturate": (
        lambda model: edit_weight(model, "conv_after_body.weight", lambda weight: np.full_like(weight, 65)),
        {"weight-pairs"},
    ),
    "neighbouring weights of a product may saturate": (
        lambda model: edit_weight(model, OUT, lambda weight: np.full_like(weight, -65)),
        {"weight-pairs"},
    ),
    "neighbouring weights just fit": (
        lambda model: edit_weight(model, OUT, lambda weight: np.full_like(weight, -64)),
        set(),
    ),
    "a convolution's result is rounded later": (
        lambda model: insert_after(model, reader(model, GATE).output[0], "LeakyRelu"),
        {"output"},
    ),
    "the input is fp16": (
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16),
        {"types"},
    ),
    "a node is not standard": (
        lambda model: (
            setattr(maker(model, "output"), "domain", "com.example"),
            model.opset_import.append(helper.make_opsetid("com.example", 1)),
        ),
        {"operators"},
    ),
    "the opset knows no scales per channel": (
        lambda model: setattr(model.opset_import[0], "version", 12),
        {"opset", "valid"},
    ),
    "activations have scales per channel": (
        lambda model: replace(model, "conv_after_body.input.scale", np.full(8, 0.01, np.float32)),
        {"activation-axis", "bias"},
    ),
}

SIGNED: dict[str, tuple[Edit, set[str]]] = {
    "every Q and DQ is gone": (strip_everything, {"quantised"}),
    "zero-points are shifted": (partial(set_zero_points, zero=np.array(1, np.int8)), {"zero-point"}),
    "a bias is int32": (partial(int32_bias, name="conv_after_body.weight"), {"bias"}),
    "weights are shipped as floats": (partial(weights_behind_quantize, name=GATE), {"weights-as-floats"}),
    "weights are on the wrong axis": (partial(set_axis, name=GATE, axis=1), {"weight-axis"}),
    "a constant is fp32": (
        lambda model: replace(model, "conv_first.bias", value(model, "conv_first.bias").astype(np.float32)),
        {"types"},
    ),
    "a part is cast to fp32": (
        lambda model: insert_after(model, reader(model, "conv_first.bias").output[0], "Cast", to=TensorProto.FLOAT),
        {"types"},
    ),
    "the opset knows no fp16 scales": (lambda model: setattr(model.opset_import[0], "version", 18), {"opset"}),
    "the IR version is too old": (lambda model: setattr(model, "ir_version", 8), {"ir-version"}),
    "neighbouring weights are large": (  # that binds the unsigned form's processors only
        lambda model: edit_weight(model, "conv_after_body.weight", lambda weight: np.full_like(weight, 127)),
        set(),
    ),
}


@pytest.mark.parametrize("defect", UNSIGNED)
def test_the_unsigned_form_is_refused_where(lint: Lint, defect: str) -> None:
    edit, broken = UNSIGNED[defect]

    report = lint(edit)

    assert errors(report) == broken, report.findings
    assert report.ok is not bool(broken)


@pytest.mark.parametrize("defect", SIGNED)
def test_the_signed_form_is_refused_where(lint: Lint, defect: str) -> None:
    edit, broken = SIGNED[defect]

    report = lint(edit, Signedness.SIGNED)

    assert errors(report) == broken, report.findings


def test_a_finding_names_the_place_and_both_sides(lint: Lint) -> None:
    report = lint(partial(set_axis, name=OUT, axis=0))

    assert messages(report, "weight-axis") == (
        f"weight {OUT}: expected 8 scales along axis 1, the output channels of MatMul, found 8 along axis 0"
    )


def test_an_intended_layer_that_is_float_or_absent_is_named(lint: Lint) -> None:
    intended = [TAIL, "conv_after_body.weight", "no.such.weight"]

    report = lint(partial(float_weight, name=TAIL), intended=intended)

    assert f"{TAIL}: expected weights and input in int8, found float weights" in messages(report, "intended")
    assert "no.such.weight" in messages(report, "intended")
    assert "conv_after_body" not in messages(report, "intended")


def test_a_float_layer_between_quantised_ones_may_be_intended(lint: Lint) -> None:
    assert lint(partial(float_weight, name="conv_after_body.weight"), intended=[TAIL]).ok


def test_float_biases_and_minus_128_are_warnings(lint: Lint) -> None:
    def edit(model: Model) -> None:
        reader(model, "conv_after_body.weight").input[2] = add(model, "bias", np.zeros(8, np.float32))
        edit_weight(model, TAIL, lambda weight: np.where(np.arange(weight.size).reshape(weight.shape) == 0, -128, 0))
        replace(model, f"{TAIL}_int8", value(model, f"{TAIL}_int8").astype(np.int8))

    report = lint(edit)

    assert report.ok
    assert "conv_after_body.weight" in messages(report, "bias")
    assert "found -128" in messages(report, "weights")


# --- what ONNX Runtime runs ------------------------------------------------------------------------------------------


def test_a_layer_that_blocks_integer_kernels_is_counted_and_named(lint: Lint) -> None:
    """A rectifier before the rounding: the numbers hardly change, and the layer runs in float."""
    report = lint(lambda model: insert_after(model, reader(model, TAIL).output[0], "LeakyRelu"), run=True)

    assert errors(report) == {"output", "integer-share"}
    assert report.macs is not None
    assert report.macs.left_float == (TAIL,)
    assert report.macs.share is not None
    assert 0 < report.macs.share < 0.9
    assert TAIL in messages(report, "integer-share")


def test_a_shuffle_without_its_grid_blocks_integer_kernels(lint: Lint) -> None:
    def edit(model: Model) -> None:
        insert_after(model, reader(model, TAIL).input[0], "SpaceToDepth", blocksize=1)

    report = lint(edit, run=True)

    assert {"integer-share"} <= errors(report)


def test_a_file_that_onnx_runtime_refuses_is_an_error(lint: Lint) -> None:
    def edit(model: Model) -> None:
        maker(model, "output").domain = "com.example"
        model.opset_import.append(helper.make_opsetid("com.example", 1))

    assert "runs" in errors(lint(edit, run=True))


# --- other files -----------------------------------------------------------------------------------------------------


def float_model(path: Path) -> Path:
    weight = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w", "b"], ["c"], name="conv", pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["output"], name="relu"),
        ],
        "float",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 8, "h", "w"])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(weight[:, 0, 0, 0], "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_float_file_is_an_error(tmp_path: Path) -> None:
    report = lint_onnx(float_model(tmp_path / "float.onnx"))

    assert errors(report) == {"quantised"}
    assert "no quantised node" in messages(report, "quantised")
    assert report.form is None
    assert report.layers == {"Conv": (0, 1)}
    assert report.macs is None


def test_a_file_of_another_tool_is_read_and_its_differences_named(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"input": np.random.default_rng(1).random((1, 4, 8, 8), dtype=np.float32)}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    source = float_model(tmp_path / "float.onnx")
    for style in (QuantFormat.QDQ, QuantFormat.QOperator):
        quantize_static(source, tmp_path / f"{style}.onnx", Pictures(), quant_format=style)

    qdq, operators = (lint_onnx(tmp_path / f"{style}.onnx") for style in (QuantFormat.QDQ, QuantFormat.QOperator))

    assert {"zero-point", "weight-axis"} <= errors(qdq)
    assert qdq.layers == {"Conv": (1, 0)}
    assert "write the file in QDQ format" in messages(operators, "operators")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x02garbage" * 50])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.onnx").write_bytes(content)

    with pytest.raises(UsageError, match="expected an ONNX file"):
        lint_onnx(tmp_path / "file.onnx")


def test_a_folder_and_nothing_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.onnx"):
        with pytest.raises(UsageError, match="expected an ONNX file"):
            lint_onnx(path)
