"""fp16 files are half precision throughout, but for what would overflow, and that is named and stays right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.overrides import TorchFunctionMode

from aethernet.errors import ExportError
from aethernet.export import ExportConfig, HalfExport, export_fp16, half
from aethernet.export.half import SAFE_MAGNITUDE, activation_ranges
from aethernet.networks.merging import merge_tail
from tests.support.exports import CONFIGS, REFERENCE, Export, Exported
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


FIRST = "conv_before_upsample.0"


@pytest.fixture(scope="module", params=["gen3-spatial-x4-grey", REFERENCE], ids=["convolution", "merged tail"])
def large(request: pytest.FixtureRequest, export: Export, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A file that gives the same picture with activations a hundred thousand times larger behind one convolution.

    No fp16 can hold them. What reads them is another convolution, or the five of the merged tail with their slices.
    """
    exported = export(request.param)
    model = onnx.load(exported.path)
    readers = {node.input[1] for node in wide_nodes(model) if node.op_type == "Conv"} - {f"{FIRST}.weight"}
    gains = {f"{FIRST}.weight": 1e5, f"{FIRST}.bias": 1e5} | dict.fromkeys(readers, 1e-5)
    for tensor in model.graph.initializer:
        if tensor.name in gains:
            values = onnx.numpy_helper.to_array(tensor) * np.float32(gains[tensor.name])
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    path = tmp_path_factory.mktemp("large") / "fp32.onnx"
    onnx.save(model, path)
    return Exported(exported.network, path, exported.description)


def wide_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolution in front of the upsampler and what follows, as far as the next convolutions."""
    reached: set[str] = set()
    nodes = []
    for node in model.graph.node:
        if f"{FIRST}.weight" in node.input or reached & set(node.input):
            nodes.append(node)
            if node.op_type != "Conv" or len(nodes) == 1:
                reached |= set(node.output)
    assert [node.op_type for node in nodes[:2]] == ["Conv", "LeakyRelu"]
    return nodes


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
    source = onnx.load(large.path)
    expected = wide_nodes(source)
    weights = {tensor.name for tensor in source.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    assert list(result.kept_fp32) == [node.name for node in expected]
    assert wide == {name for node in expected for name in node.input} & weights
    assert result.largest_activation > SAFE_MAGNITUDE


def test_nothing_is_rounded_between_operations_that_stay_fp32(large: Exported, tmp_path: Path) -> None:
    result = convert(large, tmp_path / "fp16.onnx")

    # What comes in is widened, and what each of the convolutions at the end gives is narrowed.
    ends = [node for node in wide_nodes(onnx.load(large.path))[1:] if node.op_type == "Conv"]
    assert result.description.operators["Cast"] == 1 + len(ends)


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
    network = merge_tail(exported.network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    seen: dict[str, float] = {}

    class Watch(TorchFunctionMode):
        """Largest magnitude each convolution gives, by its weight's name; those of a merged tail are no modules."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **kwargs or {})
            if func is torch.conv2d:
                name = names[id(args[1])]
                seen[name] = max(seen.get(name, 0.0), float(output.abs().max()))
            return output

    with Watch():
        for picture in PICTURES:
            answer(network, picture)
    model = onnx.load(exported.path)

    ranges = activation_ranges(model, PICTURES)

    convolutions = {node.input[1]: node for node in model.graph.node if node.op_type == "Conv"}
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
