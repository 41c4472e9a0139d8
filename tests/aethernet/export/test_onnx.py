"""The exported file computes what PyTorch computes, for any network and size, and always has the same bytes."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from aethernet.errors import ExportError, UsageError
from aethernet.export import ExportConfig, ShapeRange, export_fp32
from aethernet.export import onnx as onnx_export
from aethernet.networks import NetworkConfig, build_network
from aethernet.networks.fusion import fuse
from tests.support.exports import CONFIGS, REFERENCE, Export, every_network
from tests.support.networks import SELECTED_CONFIGS, randomised
from tests.support.pictures import natural_picture

TOLERANCE = 1e-5

every_opset = pytest.mark.parametrize(
    ("opset", "ir_version"),
    [
        (17, 8),
        pytest.param(18, 8, marks=pytest.mark.slow),
        pytest.param(19, 9, marks=pytest.mark.slow),
        pytest.param(20, 9, marks=pytest.mark.slow),
        pytest.param(21, 10, marks=pytest.mark.slow),  # the int8 files for TensorRT are in it, too
    ],
)
every_size = pytest.mark.parametrize(
    "size", [(1, 1, 1), (1, 17, 31), (2, 12, 9)], ids=lambda size: "x".join(map(str, size))
)


def run(path: Path, picture: Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (output,) = session.run(["output"], {"input": picture.numpy()})
    return output


@torch.no_grad()
def largest_difference(path: Path, network: nn.Module, picture: Tensor) -> float:
    return float(np.abs(run(path, picture) - network(picture).numpy()).max())


@every_size
@every_network
def test_plain_onnx_runtime_gives_the_picture_pytorch_gives(
    export: Export, name: str, size: tuple[int, int, int]
) -> None:
    exported = export(name)
    batch, height, width = size
    picture = natural_picture(height, width, batch=batch, channels=exported.network.config.in_channels)

    difference = largest_difference(exported.path, exported.network, picture)

    assert difference <= TOLERANCE


@every_opset
def test_every_opset_gives_the_picture_pytorch_gives_in_the_oldest_fitting_ir_version(
    export: Export, opset: int, ir_version: int
) -> None:
    exported = export(REFERENCE, opset=opset)
    picture = natural_picture(17, 31, channels=1, batch=2)

    difference = largest_difference(exported.path, exported.network, picture)

    assert difference <= TOLERANCE
    assert (exported.description.opset, exported.description.ir_version) == (opset, ir_version)


@every_network
def test_axes_are_free_and_named_after_their_sizes(export: Export, name: str) -> None:
    exported = export(name)
    channels, scale = exported.network.config.in_channels, exported.network.config.scale

    assert exported.description.inputs == {"input": ("float", ("n", channels, "h", "w"))}
    assert exported.description.outputs == {"output": ("float", ("n", channels, f"{scale}*h", f"{scale}*w"))}


@every_network
def test_every_operation_has_a_name_of_its_own(export: Export, name: str) -> None:
    """fp16 says by name which operations stay fp32."""
    names = [node.name for node in onnx.load(export(name).path).graph.node]

    assert "" not in names
    assert len(set(names)) == len(names)


def test_reductions_over_channels_have_opset_17_form_in_opset_17(export: Export) -> None:
    graph = onnx.load(export(REFERENCE, opset=17).path).graph

    reductions = [node for node in graph.node if node.op_type.startswith("Reduce")]

    assert {node.op_type for node in reductions} == {"ReduceMax", "ReduceMean"}
    assert [len(node.input) for node in reductions] == [1] * len(reductions)
    assert all(attribute.name in ("axes", "keepdims") for node in reductions for attribute in node.attribute)


@pytest.mark.slow
def test_reductions_over_channels_have_their_own_form_in_opset_18(export: Export) -> None:
    graph = onnx.load(export(REFERENCE, opset=18).path).graph

    reductions = [node for node in graph.node if node.op_type.startswith("Reduce")]

    assert [len(node.input) for node in reductions] == [2] * len(reductions)


def test_fixed_shape_is_written_as_numbers_and_computes_the_same(export: Export) -> None:
    exported = export(REFERENCE, static=(12, 20))

    difference = largest_difference(exported.path, exported.network, natural_picture(12, 20, channels=1))

    assert exported.description.inputs == {"input": ("float", (1, 1, 12, 20))}
    assert exported.description.outputs == {"output": ("float", (1, 1, 24, 40))}
    assert difference <= TOLERANCE


def test_fixed_shape_names_no_shape_range_but_the_only_size(export: Export) -> None:
    metadata = dict(export(REFERENCE, static=(12, 20)).description.metadata)

    assert json.loads(metadata.pop("size_requirements"))["fixed"] == [12, 20]
    assert metadata == {"license": "test", "precision": "fp32", "scale": "2"}


def test_metadata_says_what_the_file_is_and_what_it_was_given(export: Export) -> None:
    assert export(REFERENCE).description.metadata == {
        "license": "test",
        "maximum_shape": "4x1080x1920",
        "minimum_shape": "1x16x16",
        "optimum_shape": "1x256x256",
        "precision": "fp32",
        "scale": "2",
    }


@pytest.mark.slow
def test_exporting_again_gives_the_same_bytes_and_leaves_the_network_as_it_was(export: Export, tmp_path: Path) -> None:
    first = export(REFERENCE)
    network = fuse(randomised(build_network(CONFIGS[REFERENCE]))).train()
    before = copy.deepcopy(network.state_dict())

    export_fp32(network, tmp_path / "again.onnx", ExportConfig(), {"license": "test"})

    assert (tmp_path / "again.onnx").read_bytes() == first.path.read_bytes()
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@every_network
def test_file_says_nothing_about_the_machine_that_made_it(export: Export, name: str) -> None:
    content = export(name).path.read_bytes()
    traces = [str(Path.cwd()), str(Path.home()), sys.prefix, str(Path(torch.__file__).parent), "site-packages"]
    traces += [".py", "Traceback", 'File "', "torch.", "aethernet.networks"]

    found = [trace for trace in traces if trace.encode() in content]

    assert found == []


@pytest.mark.slow
def test_fused_graph_has_fewer_nodes_than_the_training_graph(export: Export) -> None:
    fused, training = (export(REFERENCE, fused=fused, static=(12, 20)) for fused in (True, False))

    assert fused.description.nodes < training.description.nodes
    assert fused.description.operators["Conv"] < training.description.operators["Conv"]


@pytest.mark.slow
def test_training_form_exports_to_what_pytorch_computes(export: Export) -> None:
    exported = export(REFERENCE, fused=False, static=(12, 20))

    difference = largest_difference(exported.path, exported.network, natural_picture(12, 20, channels=1))

    assert difference <= TOLERANCE


def test_failed_contract_leaves_nothing_behind(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = onnx.load(export(REFERENCE).path)
    broken.graph.node[0].domain = "somebody.else"
    monkeypatch.setattr(onnx_export, "trace_to_onnx", lambda model, config: broken)

    with pytest.raises(ExportError, match=r"^network\.onnx breaks its contract.*somebody\.else"):
        export_fp32(export(REFERENCE).network, tmp_path / "new" / "network.onnx", ExportConfig(), {})

    assert list((tmp_path / "new").iterdir()) == []


def test_failed_contract_leaves_the_older_file_alone(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "network.onnx"
    older.write_bytes(b"the file of last week")
    broken = onnx.load(export(REFERENCE).path)
    broken.graph.input[0].name = "image"
    monkeypatch.setattr(onnx_export, "trace_to_onnx", lambda model, config: broken)

    with pytest.raises(ExportError):
        export_fp32(export(REFERENCE).network, older, ExportConfig(), {})

    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    assert older.read_bytes() == b"the file of last week"


class DependsOnData(nn.Module):
    """Takes another way for dark pictures, which no graph can."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = nn.Conv2d(1, 1, 1)
        self.upsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x) if float(x.sum()) > 0 else x
        return y


def test_network_that_cannot_be_a_graph_is_an_export_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    network = DependsOnData(CONFIGS[REFERENCE])

    with pytest.raises(ExportError, match="exporter failed at opset 17"):
        export_fp32(network, tmp_path / "network.onnx", ExportConfig(), {})  # type: ignore[arg-type]

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [0, 16, 22])
def test_unsupported_opset_is_a_usage_error(opset: int) -> None:
    with pytest.raises(UsageError, match=f"from 17 to 21, found {opset}"):
        ExportConfig(opset=opset)


def test_fixed_size_of_zero_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="positive fixed size"):
        ExportConfig(static=(0, 16))


@pytest.mark.parametrize(
    "shapes",
    [
        {"minimum": (0, 16, 16)},
        {"minimum": (1, 300, 16)},
        {"optimum": (1, 256, 2000)},
        {"optimum": (5, 256, 256)},
    ],
    ids=["no batch", "minimum above optimum", "optimum above maximum", "batch above maximum"],
)
def test_shapes_out_of_order_are_a_usage_error(shapes: dict[str, tuple[int, int, int]]) -> None:
    with pytest.raises(UsageError, match="min <= opt <= max"):
        ShapeRange(**shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SELECTED_CONFIGS)[::5])  # an export takes seconds
def test_every_kind_of_network_exports_to_what_pytorch_computes(name: str, tmp_path: Path) -> None:
    config = SELECTED_CONFIGS[name]
    network = fuse(randomised(build_network(config)))
    picture = natural_picture(17, 31, channels=config.in_channels, batch=2)

    export_fp32(network, tmp_path / "network.onnx", ExportConfig(), {})

    assert largest_difference(tmp_path / "network.onnx", network, picture) <= TOLERANCE
