"""The gate for ncnn files, and what tiles cost."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aethernet.comparison import build_cases, outputs_of
from aethernet.comparison.ncnn import try_ncnn
from aethernet.comparison.seams import in_tiles, measure_seams
from aethernet.images.files import sample_images
from aethernet.networks.fusion import fuse
from aethernet.runtimes.pytorch import TorchRuntime
from tests.support.networks import tiny_network


def double(model: Any) -> None:
    layer = [layer for layer in model.layers if layer.kind == "Convolution"][-1]
    layer.weights[0].values *= 2


def rename_output(model: Any) -> None:
    last = next(layer for layer in model.layers if layer.outputs == ["output"])
    last.outputs = ["out0"]


def rename_inside(model: Any) -> None:
    model.layers[-1].inputs[0] = "nowhere"


def test_released_files_pass_and_spoilt_ones_do_not(tmp_path: Path) -> None:
    pytest.importorskip("ncnn", reason="needs ncnn: the extra 'ncnn'")
    from aethernet.export.ncnn.conversion import convert
    from aethernet.export.onnx import ExportConfig, trace_to_onnx
    from aethernet.graphs.ncnn import write_ncnn
    from tests.support.networks import calm_network

    network = calm_network()
    cases = [case for case in build_cases({path.stem: path for path in sample_images()}, 3) if case.input.size < 5000]
    truth = outputs_of(TorchRuntime(network), cases)
    model = convert(trace_to_onnx(fuse(network), ExportConfig(opset=18)))
    write_ncnn(model, tmp_path / "a.param", tmp_path / "a.bin")
    found = try_ncnn(tmp_path / "a.param", truth, cases)
    assert found.failures == ()
    assert {one.form.runtime for one in found.measurements} == {"ncnn-cpu", *(["ncnn-vulkan"] if found.device else [])}

    for spoil, word in (
        (double, "PSNR"),
        (rename_output, "expected the blobs data and output, found data, out0"),
        (rename_inside, "reads nowhere, which no layer before it gives"),
    ):
        spoilt = copy.deepcopy(model)
        spoil(spoilt)
        write_ncnn(spoilt, tmp_path / "a.param", tmp_path / "a.bin")
        failures = try_ncnn(tmp_path / "a.param", truth, cases[:2]).failures
        assert any(word in failure for failure in failures), (spoil, failures[:3])


def test_tiles_whose_margin_holds_the_receptive_field_leave_no_seam_and_narrower_ones_do() -> None:
    network = fuse(tiny_network(2))
    reach = network.config.receptive_radius
    assert reach is not None
    image = np.random.default_rng(0).random((1, 3, 70, 90), dtype=np.float32)
    with TorchRuntime(network) as runtime:
        tiled, whole = (in_tiles(runtime, image, scale=2, tile=tile, margin=reach) for tile in (32, 90))
        assert tiled.shape == (1, 3, 140, 180)
        np.testing.assert_allclose(tiled, whole, atol=1e-5)
        narrow, wide = (measure_seams(runtime, image, scale=2, tiles=[32], margin=one)[0] for one in (1, reach))
        assert (narrow.tile, narrow.margin, narrow.image) == (32, 1, (70, 90))
        assert narrow.largest_level > 2
        assert wide.largest_level <= 1
        assert measure_seams(runtime, image, scale=2, tiles=[], margin=1) == []
