"""int8 files hold integers, pass the lint, and ONNX Runtime computes from them what PyTorch computes."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from aethernet.export import ExportConfig, OnnxDescription
from aethernet.export.int8 import TRT_OPSET, _exportable, export_int8, rewrite_unsigned, trace_int8
from aethernet.export.lint import LintReport, Severity, Signedness, lint_onnx
from aethernet.export.onnx import NATIVE_OPSET, at_opset, trace_to_onnx
from aethernet.networks import AetherNet
from aethernet.networks.fusion import fuse
from aethernet.quantization.post_training import quantize
from aethernet.quantization.scheme import MAC_SHARE
from aethernet.quantization.structure import convs_of
from aethernet.runtimes.opening import open_runtime
from tests.support.images import natural_image
from tests.support.networks import tiny_network

FORMS = {"unsigned": False, "tensorrt": True}
STATIC = (24, 20)
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "gen1": (1, {"depths": (1,)}),
    "gen2": (2, {"depths": (1,), "scale": 4}),
    "gen3": (3, {"depths": (1, 1), "channel_attention": True, "spatial_attention": True}),
}
"""An export takes seconds, so there are few: between them one stage and several, a shuffle between two convolutions,
blocks with attention and without."""

FILES = [*((name, None) for name in NETWORKS), ("gen3", STATIC)]
every_unsigned_file = pytest.mark.parametrize(
    ("name", "static"),
    [
        pytest.param(
            name, static, id=f"{name}-{'fixed' if static else 'free'}", marks=() if name == "gen2" else pytest.mark.slow
        )
        for name, static in FILES
    ],
)
every_network = pytest.mark.parametrize(
    "name", ["gen2", *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name != "gen2")]
)


@dataclasses.dataclass(frozen=True)
class Int8File:
    network: AetherNet
    path: Path
    description: OnnxDescription
    untouched: bool
    """Whether the network still holds and computes what it did before the export."""

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.load(self.path)


Int8Export = Callable[..., Int8File]


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Int8Export:
    """Export once: ``int8(name, tensorrt=False, static=None)``."""
    folder = tmp_path_factory.mktemp("int8")
    networks: dict[str, AetherNet] = {}
    made: dict[tuple[object, ...], Int8File] = {}
    traced: dict[tuple[object, ...], onnx.ModelProto] = {}

    def export(name: str, *, tensorrt: bool = False, static: tuple[int, int] | None = None) -> Int8File:
        torch.set_num_threads(1)
        if name not in networks:
            generation, changes = NETWORKS[name]
            images = [natural_image(20, 20, seed=seed).numpy() for seed in range(2)]
            networks[name] = quantize(fuse(tiny_network(generation, **changes)), images=images, keep_float=()).model
        key = (name, tensorrt, static)
        if key not in made:
            path = folder / f"{len(made)}.onnx"
            config, metadata = ExportConfig(static=static), {"license": "test"}
            before = state(networks[name])
            if (name, static) not in traced:
                traced[name, static] = trace_int8(networks[name], config)
            graph = traced[name, static]
            described = export_int8(networks[name], path, config, metadata, tensorrt=tensorrt, traced=graph)
            made[key] = Int8File(networks[name], path, described, state(networks[name]) == before)
        return made[key]

    return export


@torch.no_grad()
def state(network: AetherNet) -> str:
    """Digest of all tensors and of the answer to one image."""
    tensors = [*network.state_dict().values(), network(natural_image())]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def errors(report: LintReport) -> list[str]:
    return [f"{one.rule}: {one.message}" for one in report.findings if one.severity is Severity.ERROR]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def run(path: Path, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def run_unoptimised(path: Path, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": image.astype(np.float16)})[0]


def differing(answer: np.ndarray, wanted: np.ndarray) -> float:
    """Share of pixels more than one level of 8 bits apart, the image's range scaled to [0, 1]."""
    low, high = wanted.min(), wanted.max()
    levels, others = (np.rint(255 * (one - low) / (high - low)) for one in (answer, wanted))
    return float((np.abs(levels - others) > 1).mean())


@every_network
def test_our_runtime_computes_the_tensorrt_file_as_it_stands(int8: Int8Export, name: str) -> None:
    """ONNX Runtime's own optimisation of such files refuses some and changes others."""
    exported = int8(name, tensorrt=True)
    image = natural_image(24, 20).numpy()

    with open_runtime(exported.path) as runtime:
        answer = runtime.infer(image)

    np.testing.assert_array_equal(answer, run_unoptimised(exported.path, image).astype(np.float32))


@pytest.mark.parametrize("form", FORMS)
@every_network
def test_the_file_passes_the_lint(int8: Int8Export, name: str, form: str) -> None:
    exported = int8(name, tensorrt=FORMS[form])
    intended = [f"{conv}.weight" for conv, _ in convs_of(exported.network)]

    report = lint_onnx(exported.path, intended=intended)

    assert errors(report) == []
    assert report.ok
    assert report.form is (Signedness.SIGNED if FORMS[form] else Signedness.UNSIGNED)


@every_unsigned_file
def test_onnx_runtime_computes_in_integers_with_free_and_with_fixed_sizes(
    int8: Int8Export, name: str, static: tuple[int, int] | None
) -> None:
    report = lint_onnx(int8(name, static=static).path)

    assert errors(report) == []
    assert report.macs is not None
    assert report.macs.share is not None
    assert report.macs.share >= MAC_SHARE, report.macs.left_float


@torch.no_grad()
def with_rounded_biases(exported: Int8File) -> AetherNet:
    """A copy of the network whose biases are those of its unsigned file, multiples of a scale."""
    network, stored = copy.deepcopy(exported.network), constants(exported.model)
    rounded = 0
    for name, conv in convs_of(network):
        integers = stored.get(f"{name}.bias_int32")
        if integers is not None:
            values = integers.astype(np.float64) * stored[f"{name}.bias_scale"]
            torch.testing.assert_close(conv.bias.double(), torch.from_numpy(values), rtol=0, atol=1e-2)
            conv.bias.copy_(torch.from_numpy(values.astype(np.float32)))
            rounded += 1
    assert rounded
    return network


@every_unsigned_file
@torch.no_grad()
def test_onnx_runtime_computes_what_pytorch_computes_with_the_biases_of_the_file(
    int8: Int8Export, name: str, static: tuple[int, int] | None
) -> None:
    exported = int8(name, static=static)
    image = natural_image(*STATIC, seed=5)

    answer = run(exported.path, image.numpy())

    assert answer.dtype == np.float32
    assert differing(answer, with_rounded_biases(exported)(image).numpy()) <= 1e-3


@every_network
@torch.no_grad()
def test_onnx_runtime_computes_what_pytorch_computes(int8: Int8Export, name: str) -> None:
    exported = int8(name)
    image = natural_image(*STATIC, seed=5)

    assert differing(run(exported.path, image.numpy()), exported.network(image).numpy()) <= 1e-3


@torch.no_grad()
def test_a_network_that_is_not_quantised_would_differ_by_more(int8: Int8Export) -> None:
    """The control: what is compared above is not merely the same image."""
    generation, changes = NETWORKS["gen2"]
    image = natural_image(*STATIC, seed=5)
    wanted = fuse(tiny_network(generation, **changes))(image).numpy()

    assert differing(run(int8("gen2").path, image.numpy()), wanted) > 0.01


@torch.no_grad()
def test_batches_and_other_sizes_run(int8: Int8Export) -> None:
    exported, image = int8("gen2"), natural_image(9, 13, batch=2, seed=5)

    answer = run(exported.path, image.numpy())

    assert differing(answer, with_rounded_biases(exported)(image).numpy()) <= 1e-3


@pytest.mark.parametrize("form", FORMS)
@every_network
def test_weights_are_stored_as_int8(int8: Int8Export, name: str, form: str) -> None:
    exported = int8(name, tensorrt=FORMS[form])

    stored = constants(exported.model)

    for conv, module in convs_of(exported.network):
        integers, scale = stored[f"{conv}.weight_int8"], stored[f"{conv}.weight_scale"]
        wanted = torch.round(module.weight / module.weight_scale.view(-1, 1, 1, 1)).numpy()
        assert integers.dtype == np.int8
        assert f"{conv}.weight" not in stored
        if integers.ndim == 2:  # spelled as a product, input channels first
            wanted = wanted[:, :, 0, 0].T
        assert np.array_equal(integers, wanted), conv
        assert np.allclose(scale.astype(np.float32), module.weight_scale.numpy(), rtol=1e-3), conv


@every_network
def test_gates_have_biases_in_int32_in_the_unsigned_form(int8: Int8Export, name: str) -> None:
    model = int8(name).model
    stored, makers = constants(model), {output: node for node in model.graph.node for output in node.output}
    convs = {node.input[1]: node for node in model.graph.node if node.op_type == "Conv"}
    gates = [conv for conv, _ in convs_of(int8(name).network) if conv.endswith((".conv_gate", ".conv_main"))]

    assert gates
    for gate in gates:
        node = convs[f"{gate}.weight"]
        bias = makers[node.input[2]]
        assert bias.op_type == "DequantizeLinear", gate
        assert stored[bias.input[0]].dtype == np.int32, gate
        source = makers[node.input[0]]
        while source.op_type == "Transpose":
            source = makers[source.input[0]]
        product = stored[source.input[1]] * stored[f"{gate}.weight_scale"]
        assert np.allclose(stored[bias.input[1]], product, rtol=1e-6), gate


@every_network
def test_the_last_of_a_gate_leaves_floats_as_a_product(int8: Int8Export, name: str) -> None:
    model = int8(name).model
    products = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}

    last = [f"{conv}.weight" for conv, _ in convs_of(int8(name).network) if conv.endswith(".conv_out")]

    assert last
    assert set(last) <= products


def zero_points(model: onnx.ModelProto) -> dict[str, set[tuple[str, int]]]:
    """Operator -> (type, value) of the zero-points of activations."""
    stored = constants(model)
    found: dict[str, set[tuple[str, int]]] = {"QuantizeLinear": set(), "DequantizeLinear": set()}
    for node in model.graph.node:
        if node.op_type in found and node.input[0] not in stored:
            point = stored[node.input[2]]
            found[node.op_type].add((point.dtype.name, int(point)))
    return found


@every_network
def test_activations_are_unsigned_around_128_or_signed_around_0(int8: Int8Export, name: str) -> None:
    unsigned, signed = (zero_points(int8(name, tensorrt=tensorrt).model) for tensorrt in (False, True))

    assert unsigned == {operator: {("uint8", 128)} for operator in unsigned}
    assert signed == {operator: {("int8", 0)} for operator in signed}


@every_network
def test_the_file_for_tensorrt_is_half_precision_with_float_biases(int8: Int8Export, name: str) -> None:
    model = int8(name, tensorrt=True).model

    types = {tensor.data_type for tensor in model.graph.initializer}
    assert TensorProto.FLOAT16 in types
    assert TensorProto.INT32 not in types
    assert TensorProto.FLOAT not in types
    assert [(one.domain, one.version) for one in model.opset_import] == [("", TRT_OPSET)]
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16


@every_network
def test_both_forms_hold_the_same_grids(int8: Int8Export, name: str) -> None:
    unsigned, signed = (constants(int8(name, tensorrt=tensorrt).model) for tensorrt in (False, True))
    weights = [tensor for tensor in signed if tensor.endswith("_int8")]

    assert weights
    for tensor in weights:
        mine, other = unsigned[tensor], signed[tensor]
        assert np.array_equal(mine, other if mine.ndim == other.ndim else other[:, :, 0, 0].T), tensor


def test_a_single_stage_is_not_rounded_twice(int8: Int8Export) -> None:
    report = lint_onnx(int8("gen2").path, run=False)

    assert [one.message for one in report.findings if one.rule == "double"] == []


def test_a_traced_graph_can_be_written_in_both_forms_and_stays_as_it_is(int8: Int8Export, tmp_path: Path) -> None:
    network = int8("gen2").network
    traced = trace_int8(network, ExportConfig())
    before = traced.SerializeToString(deterministic=True)
    files = [tmp_path / "int8.onnx", tmp_path / "int8_trt.onnx"]

    for path in files:
        export_int8(network, path, ExportConfig(), {"license": "test"}, tensorrt=path is files[1], traced=traced)

    assert traced.SerializeToString(deterministic=True) == before
    assert traced.opset_import[0].version == NATIVE_OPSET
    assert [path.read_bytes() for path in files] == [int8("gen2", tensorrt=one).path.read_bytes() for one in (0, 1)]


@pytest.mark.slow
@every_network
def test_raising_the_opset_gives_what_the_exporter_gives_at_that_opset(int8: Int8Export, name: str) -> None:
    network = int8(name).network

    raised = at_opset(trace_int8(network, ExportConfig()), TRT_OPSET)

    exported, _ = _exportable(network)
    native = trace_to_onnx(exported, ExportConfig(opset=TRT_OPSET))
    kinds = [node.op_type for node in raised.graph.node if not node.name.startswith("dequantize/")]
    assert kinds == [node.op_type for node in native.graph.node]
    assert raised.opset_import[0].version == native.opset_import[0].version == TRT_OPSET


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes(int8: Int8Export, tmp_path: Path) -> None:
    exported, config = int8("gen3", static=STATIC), ExportConfig(static=STATIC)

    again = export_int8(exported.network, tmp_path / "again.onnx", config, {"license": "test"}, tensorrt=False)

    assert again == exported.description
    assert (tmp_path / "again.onnx").read_bytes() == exported.path.read_bytes()


@every_network
def test_exporting_leaves_the_network_untouched(int8: Int8Export, name: str) -> None:
    assert int8(name).untouched
    assert int8(name, tensorrt=True).untouched


def test_metadata_names_the_precision(int8: Int8Export) -> None:
    entries = {entry.key: entry.value for entry in int8("gen2").model.metadata_props}

    assert entries["license"] == "test"
    assert "int8" in entries.values()


# --- parts that are missing or shared --------------------------------------------------------------------------------


def _two_convolutions(bias: str, *, shared_weight: bool) -> onnx.ModelProto:
    """Input on a grid, two 1x1 convolutions that leave floats, and a 3x3 one; ``bias`` of the first two."""
    draw = np.random.default_rng(3)
    constants = {"zero": np.int8(0), "in_scale": np.float32(1 / 127)}
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["input", "in_scale", "zero"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "in_scale", "zero"], ["grid"]),
    ]
    for index, size in enumerate((1, 1, 3)):
        weight = f"w{0 if shared_weight and index == 1 else index}"
        if weight == f"w{index}":
            constants |= {
                f"{weight}_int8": draw.integers(-127, 127, (4, 4, size, size)).astype(np.int8),
                f"{weight}_scale": np.full(4, 0.01, np.float32),
                f"{weight}_zero": np.zeros(4, np.int8),
            }
            parts = [f"{weight}_int8", f"{weight}_scale", f"{weight}_zero"]
            nodes.append(
                onnx.helper.make_node("DequantizeLinear", parts, [weight], name=f"dequantize/{weight}", axis=0)
            )
        given = ["grid", weight]
        if bias != "absent" or index == 2:
            name = "b" if bias == "shared" else f"b{index}"
            constants[name] = np.zeros(4, np.float32) if bias == "zero" else np.arange(4, dtype=np.float32)
            given.append(name)
        pads = [size // 2] * 4
        nodes.append(onnx.helper.make_node("Conv", given, [f"y{index}"], name=f"conv{index}", pads=pads))
    nodes += [
        onnx.helper.make_node("Mul", ["y0", "y1"], ["product"]),
        onnx.helper.make_node("Add", ["product", "y2"], ["output"]),
    ]
    shape = [1, 4, 6, 5]
    graph = onnx.helper.make_graph(
        nodes,
        "two",
        [onnx.helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("shared_weight", [False, True], ids=["own weights", "a shared weight"])
@pytest.mark.parametrize("bias", ["absent", "zero", "own", "shared"])
def test_the_unsigned_graph_computes_the_same_whatever_is_missing_or_shared(bias: str, shared_weight: bool) -> None:
    before = _two_convolutions(bias, shared_weight=shared_weight)
    after = copy.deepcopy(before)

    rewrite_unsigned(after)

    onnx.checker.check_model(after, full_check=True)
    image = np.random.default_rng(5).random((1, 4, 6, 5), dtype=np.float32)
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    wanted, found = (
        onnxruntime.InferenceSession(one.SerializeToString(), plain).run(None, {"input": image})[0]
        for one in (before, after)
    )
    assert np.abs(wanted).max() > 1
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
