"""Networks become ncnn layers that compute the same image, with the fewest layers, in programs that lack many."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aethernet.errors import ExportError
from aethernet.export.ncnn import export_ncnn
from aethernet.export.ncnn.conversion import convert
from aethernet.export.ncnn.programs import known_programs, lint_ncnn
from aethernet.export.ncnn.proof import require_same
from aethernet.export.onnx import ExportConfig, trace_to_onnx
from aethernet.graphs.ncnn import read_param
from aethernet.networks.fusion import fuse
from tests.support.networks import tiny_network

pytest.importorskip("ncnn", reason="needs ncnn: the extra 'ncnn'")

UPSCAYL = next(program for program in known_programs() if program.name == "Upscayl")
BOTH = {"channel_attention": True, "spatial_attention": True}
NETWORKS = {
    "gen1-x3-rgb": (1, {"scale": 3}),
    "gen1-x1-grey": (1, {"scale": 1, "in_channels": 1}),
    "gen2-both-x4-rgb": (2, {"scale": 4, **BOTH}),
    "gen2-plain-x2-grey": (2, {"scale": 2, "in_channels": 1}),
    "gen3-both-x2-rgb": (3, {"scale": 2, **BOTH}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_generation_computes_the_same_image_with_upscayls_layers(tmp_path: Path, name: str) -> None:
    generation, changes = NETWORKS[name]
    files = export_ncnn(fuse(tiny_network(generation, **changes)), tmp_path, "tiny")  # proven inside, or it raises
    model = read_param(files.param)
    assert (model.inputs, model.outputs) == (["data"], ["output"])
    assert UPSCAYL.missing(model) == ()
    assert "MemoryData" not in model.kinds


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    network = fuse(tiny_network(3, **BOTH))
    first, second = (export_ncnn(network, tmp_path, name) for name in ("a", "b"))
    assert first.param.read_bytes() == second.param.read_bytes()
    assert first.weights.read_bytes() == second.weights.read_bytes()


def spoil_channels(model: object) -> None:
    weight = model.layers[2].weights[0]  # type: ignore[attr-defined]
    weight.values = np.ascontiguousarray(weight.values[:, ::-1])


def spoil_weight(model: object) -> None:
    model.layers[2].weights[0].values[0] *= 2  # type: ignore[attr-defined]


def spoil_padding(model: object) -> None:
    layer = next(one for one in model.layers if one.kind == "ConvolutionDepthWise")  # type: ignore[attr-defined]
    layer.parameters |= {4: 2, 15: 4, 14: 2, 16: 4}


def spoil_blob(model: object) -> None:
    layer = next(one for one in model.layers if one.kind == "BinaryOp" and len(one.inputs) == 2)  # type: ignore[attr-defined]
    layer.inputs[0] = layer.inputs[1]


@pytest.mark.parametrize("spoil", [spoil_channels, spoil_weight, spoil_padding, spoil_blob])
def test_a_spoiled_conversion_is_not_taken_for_the_network(spoil: object) -> None:
    network = fuse(tiny_network(2))
    model = convert(trace_to_onnx(network, ExportConfig(opset=18)))
    require_same(copy.deepcopy(model), network)
    spoil(model)  # type: ignore[operator]
    with pytest.raises(ExportError, match="ncnn"):
        require_same(model, network)


def converted(module: nn.Module) -> dict[str, int]:
    from tests.support.third_party import around

    network = around(module)
    model = convert(trace_to_onnx(network, ExportConfig(opset=18)))
    require_same(model, network)
    return model.kinds


def test_slopes_on_both_sides_of_one_are_one_layer() -> None:
    class Larger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.back = nn.Conv2d(4, 3, 1)
            self.slope = nn.Parameter(torch.tensor([-0.5, 0.2, 1.0, 2.5]).reshape(1, -1, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.back(torch.maximum(y, y * self.slope))

    torch.manual_seed(0)
    assert converted(Larger()) == {"Convolution": 2, "Input": 1, "PReLU": 1}


def test_an_activation_goes_into_the_convolution_unless_that_is_read_twice() -> None:
    class Gate(nn.Module):
        def __init__(self, twice: bool) -> None:
            super().__init__()
            self.conv, self.back, self.twice = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1), twice

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            gated = torch.nn.functional.leaky_relu(y, 0.1)
            return self.back(gated + y if self.twice else gated)

    torch.manual_seed(0)
    assert converted(Gate(False)) == {"Convolution": 2, "Input": 1}
    assert converted(Gate(True)) == {"BinaryOp": 1, "Convolution": 2, "Input": 1, "ReLU": 1, "Split": 1}


def test_a_network_that_ncnn_has_no_layer_for_is_refused_by_name() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(self.conv(x), 1)

    from tests.support.third_party import around

    with pytest.raises(ExportError, match="no layer is known for the ONNX operator CumSum"):
        convert(trace_to_onnx(around(Sorted()), ExportConfig(opset=18)))


def test_lint_says_for_each_program_what_is_missing(tmp_path: Path) -> None:
    files = export_ncnn(fuse(tiny_network(2)), tmp_path, "tiny")
    found = {one.program.name: one for one in lint_ncnn(files.param).programs}
    assert found["Upscayl"].runs
    assert found["realesrgan-ncnn-vulkan"].missing == ("ConvolutionDepthWise", "Swish")
    renamed = files.param.read_text().replace(" output", " out0")
    files.param.write_text(renamed)
    found = {one.program.name: one for one in lint_ncnn(files.param).programs}
    assert found["Upscayl"].blobs == ("output",)
    assert str(found["Upscayl"]) == "Upscayl: no, asks for blobs data and output"


def test_every_program_has_a_source_a_date_and_layers() -> None:
    for program in known_programs():
        assert program.source.startswith("https://")
        assert program.commit
        assert bool(program.lacks) != bool(program.knows)
