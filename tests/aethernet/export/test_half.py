"""fp16 files are half precision throughout, but for what would overflow, and that is named and stays right."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from torch import nn

from aethernet.errors import ExportError
from aethernet.export import ExportConfig, HalfExport, export_fp16, export_fp32, half
from aethernet.export.half import SAFE_MAGNITUDE, activation_ranges
from aethernet.network import AetherNet
from tests.aethernet.export.conftest import CONFIGS, REFERENCE, Export, Exported
from tests.support.pictures import natural_picture

PICTURES = [natural_picture(12, 10, channels=1, seed=seed).numpy() for seed in (0, 1)]
TOLERANCE = 5e-3
"""Of outputs that span about 2: a few steps of fp16."""


def convert(exported: Exported, destination: Path) -> HalfExport:
    config = exported.network.config
    pictures = [natural_picture(12, 10, channels=config.in_channels).numpy()]
    return export_fp16(
        exported.path, destination, ExportConfig(), {}, pictures, channels=config.in_channels, scale=config.scale
    )


def run(path: Path, picture: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": picture.astype(np.float16)})
    return output


def run_as_written(path: Path, picture: np.ndarray) -> np.ndarray:
    """Every operation in exactly the type the file gives it, as a strongly typed engine does.

    ONNX Runtime on a CPU widens fp16 operations and then drops the roundings between them: it hides an overflow.
    """
    with np.errstate(all="ignore"):
        (output,) = ReferenceEvaluator(onnx.load(path)).run(None, {"input": picture.astype(np.float16)})
    return output.astype(np.float32)


@torch.no_grad()
def answer(network: nn.Module, picture: np.ndarray) -> np.ndarray:
    output: np.ndarray = network(torch.from_numpy(picture)).numpy()
    return output


@torch.no_grad()
def amplified(network: AetherNet) -> AetherNet:
    """The same picture, with activations a hundred thousand times larger between two convolutions."""
    result = copy.deepcopy(network)
    first, second = result.conv_before_upsample[0], result.upsample.blocks[0]
    first.weight *= 1e5
    first.bias *= 1e5
    second.weight /= 1e5
    return result


@pytest.fixture(scope="module")
def large(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network whose real activations no fp16 can hold."""
    network = amplified(export(REFERENCE).network)
    path = tmp_path_factory.mktemp("large") / "fp32.onnx"
    return Exported(network, path, export_fp32(network, path, ExportConfig(), {}))


def wide_operations(exported: Exported) -> list[str]:
    """Names of the operations between the two convolutions, both included."""
    nodes = onnx.load(exported.path).graph.node
    first = next(place for place, node in enumerate(nodes) if "conv_before_upsample.0.weight" in node.input)
    return [node.name for node in nodes[first : first + 3]]


@pytest.mark.parametrize("name", CONFIGS)
def test_input_output_and_every_weight_are_half(export: Export, tmp_path: Path, name: str) -> None:
    result = convert(export(name), tmp_path / "fp16.onnx")

    model = onnx.load(tmp_path / "fp16.onnx")
    types = {tensor.data_type for tensor in model.graph.initializer}
    assert result.description.inputs["input"][0] == result.description.outputs["output"][0] == "float16"
    assert types - {TensorProto.INT64} == {TensorProto.FLOAT16}
    assert "Cast" not in result.description.operators
    assert result.kept_fp32 == ()


@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_gives_nearly_the_same_picture(export: Export, tmp_path: Path, name: str) -> None:
    exported = export(name)
    picture = natural_picture(17, 31, channels=exported.network.config.in_channels).numpy()

    convert(exported, tmp_path / "fp16.onnx")

    output = run(tmp_path / "fp16.onnx", picture)
    expected = answer(exported.network, picture)
    assert output.dtype == np.float16
    assert np.abs(output - expected).max() <= TOLERANCE * np.ptp(expected)


def test_metadata_names_the_precision(export: Export, tmp_path: Path) -> None:
    result = convert(export(REFERENCE), tmp_path / "fp16.onnx")

    assert result.description.metadata["precision"] == "fp16"


def test_converting_twice_gives_the_same_bytes(export: Export, tmp_path: Path) -> None:
    convert(export(REFERENCE), tmp_path / "once.onnx")
    convert(export(REFERENCE), tmp_path / "twice.onnx")

    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()


def test_fp32_file_is_not_changed_by_the_conversion(export: Export, tmp_path: Path) -> None:
    before = export(REFERENCE).path.read_bytes()

    convert(export(REFERENCE), tmp_path / "fp16.onnx")

    assert export(REFERENCE).path.read_bytes() == before


def test_exactly_the_operations_that_would_overflow_stay_fp32_and_are_named(large: Exported, tmp_path: Path) -> None:
    result = convert(large, tmp_path / "fp16.onnx")

    model = onnx.load(tmp_path / "fp16.onnx")
    wide = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    assert list(result.kept_fp32) == wide_operations(large)
    assert wide == {
        f"{name}.{part}" for name in ("conv_before_upsample.0", "upsample.blocks.0") for part in ("weight", "bias")
    }
    assert result.largest_activation > SAFE_MAGNITUDE


def test_nothing_is_rounded_between_operations_that_stay_fp32(large: Exported, tmp_path: Path) -> None:
    result = convert(large, tmp_path / "fp16.onnx")

    assert result.description.operators["Cast"] == 2


def test_network_with_large_activations_stays_finite_and_close(large: Exported, tmp_path: Path) -> None:
    convert(large, tmp_path / "fp16.onnx")

    expected = answer(large.network, PICTURES[0])
    for output in (run(tmp_path / "fp16.onnx", PICTURES[0]), run_as_written(tmp_path / "fp16.onnx", PICTURES[0])):
        assert np.isfinite(output).all()
        assert np.abs(output - expected).max() <= TOLERANCE * np.ptp(expected)


def test_the_same_network_is_ruined_when_everything_is_made_half(
    large: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "SAFE_MAGNITUDE", 1e30)

    result = convert(large, tmp_path / "fp16.onnx")

    output = run_as_written(tmp_path / "fp16.onnx", PICTURES[0])
    assert result.kept_fp32 == ()
    assert not np.isfinite(output).all()


def two_readers(path: Path) -> None:
    """A file by our contract in which two convolutions read one tensor and both answer with large numbers."""
    weight = np.full((1, 1, 1, 1), 9e4, dtype=np.float32)
    nodes = [
        onnx.helper.make_node("Relu", ["input"], ["shared"], name="share"),
        onnx.helper.make_node("Conv", ["shared", "gain"], ["left"], name="left"),
        onnx.helper.make_node("Conv", ["shared", "gain"], ["right"], name="right"),
        onnx.helper.make_node("Div", ["left", "right"], ["ratio"], name="ratio"),
        onnx.helper.make_node("Relu", ["ratio"], ["output"], name="end"),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "two readers",
        [onnx.helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [onnx.helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 1, "1*h", "1*w"])],
        [onnx.numpy_helper.from_array(weight, "gain")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)


def test_tensor_that_several_fp32_operations_read_is_widened_once(tmp_path: Path) -> None:
    two_readers(tmp_path / "fp32.onnx")
    picture = np.full((1, 1, 3, 4), 0.5, dtype=np.float32)

    result = export_fp16(
        tmp_path / "fp32.onnx", tmp_path / "fp16.onnx", ExportConfig(), {}, [picture], channels=1, scale=1
    )

    assert result.kept_fp32 == ("left", "right", "ratio")
    assert result.description.operators["Cast"] == 2
    assert run_as_written(tmp_path / "fp16.onnx", picture).tolist() == np.ones((1, 1, 3, 4)).tolist()


def test_failed_conversion_leaves_nothing_behind(export: Export, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^fp16\.onnx breaks its contract.*expected scale 4"):
        export_fp16(export(REFERENCE).path, tmp_path / "fp16.onnx", ExportConfig(), {}, PICTURES, channels=1, scale=4)

    assert list(tmp_path.iterdir()) == []


def small_graph(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    graph = onnx.helper.make_graph(
        list(nodes),
        "small",
        [onnx.helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [onnx.helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [onnx.numpy_helper.from_array(np.array(-300, dtype=np.float32), "gain")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_activation_ranges_are_the_largest_magnitudes_over_all_pictures() -> None:
    model = small_graph(
        onnx.helper.make_node("Mul", ["input", "gain"], ["scaled"]),
        onnx.helper.make_node("Tanh", ["scaled"], ["bounded"]),
        onnx.helper.make_node("Add", ["bounded", "input"], ["output"]),
    )
    stack = np.stack(PICTURES)

    ranges = activation_ranges(model, PICTURES)

    assert set(ranges) == {"input", "scaled", "bounded", "output"}
    assert ranges["input"] == pytest.approx(stack.max())
    assert ranges["scaled"] == pytest.approx(300 * stack.max())
    assert ranges["bounded"] == pytest.approx(np.abs(np.tanh(-300 * stack)).max())
    assert ranges["output"] == pytest.approx(np.abs(np.tanh(-300 * stack) + stack).max())


def test_activation_ranges_are_those_pytorch_sees(export: Export) -> None:
    exported = export(REFERENCE)
    seen: dict[str, float] = {}

    def watch(name: str, module: nn.Module) -> None:
        module.register_forward_hook(
            lambda module, inputs, output: seen.__setitem__(name, max(seen.get(name, 0.0), float(output.abs().max())))
        )

    network = copy.deepcopy(exported.network)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            watch(name, module)
    for picture in PICTURES:
        answer(network, picture)
    model = onnx.load(exported.path)

    ranges = activation_ranges(model, PICTURES)

    convolutions = {node.input[1].removesuffix(".weight"): node for node in model.graph.node if node.op_type == "Conv"}
    assert convolutions.keys() == seen.keys()
    assert {name: ranges[node.output[0]] for name, node in convolutions.items()} == pytest.approx(seen, rel=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_activation_ranges_leave_no_float_out(export: Export, name: str) -> None:
    model = onnx.load(export(name).path)
    picture = natural_picture(12, 10, channels=export(name).network.config.in_channels).numpy()
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.output)}

    ranges = activation_ranges(model, [picture])

    assert {name for node in model.graph.node for name in node.output} == types.keys()
    assert ranges.keys() - {"input"} == {name for name, kind in types.items() if kind == TensorProto.FLOAT}
    assert all(value > 0 for value in ranges.values())


def test_activation_that_is_no_number_counts_as_unsafe() -> None:
    model = small_graph(
        onnx.helper.make_node("Mul", ["input", "gain"], ["negative"]),
        onnx.helper.make_node("Sqrt", ["negative"], ["output"], name="root"),
    )

    ranges = activation_ranges(model, [np.full((1, 1, 2, 2), 0.5, dtype=np.float32)] * 2)

    assert math.isnan(ranges["output"])
    assert half._unsafe_nodes(model, ranges) == ["root"]


def test_each_activation_is_measured_right_after_it_is_made(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it can be let go: memory stays that of one forward pass."""
    opened: list[tuple[onnx.ModelProto, onnxruntime.SessionOptions]] = []
    session = onnxruntime.InferenceSession

    def open_session(content: bytes, options: onnxruntime.SessionOptions, providers: list[str]) -> object:
        opened.append((onnx.load_from_string(content), options))
        return session(content, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    activation_ranges(onnx.load(export(REFERENCE).path), PICTURES[:1])

    (model, options), *_ = opened
    nodes = list(model.graph.node)
    probes = [place for place, node in enumerate(nodes) if node.op_type == "Abs"]
    assert options.execution_order == onnxruntime.ExecutionOrder.PRIORITY_BASED
    assert [nodes[place].input[0] for place in probes[1:]] == [nodes[place - 1].output[0] for place in probes[1:]]
    assert [nodes[place + 1].op_type for place in probes] == ["ReduceMax"] * len(probes)
    assert len(model.graph.output) == 1 + len(probes)
