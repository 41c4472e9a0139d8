"""The gate for ncnn files, and what tiles cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aethernet.comparison import build_cases, outputs_of
from aethernet.comparison.ncnn import try_ncnn
from aethernet.comparison.seams import in_tiles, measure_seams
from aethernet.images.files import sample_images
from aethernet.networks.fusion import fuse
from aethernet.runtimes.pytorch import TorchRuntime
from tests.support.networks import tiny_network


def test_released_files_pass_and_files_with_a_doubled_weight_do_not(tmp_path: Path) -> None:
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

    last = [layer for layer in model.layers if layer.kind == "Convolution"][-1]
    last.weights[0].values *= 2
    write_ncnn(model, tmp_path / "a.param", tmp_path / "a.bin")
    assert any("PSNR" in failure for failure in try_ncnn(tmp_path / "a.param", truth, cases).failures)


def test_tiles_whose_margin_holds_the_receptive_field_leave_no_seam_and_narrower_ones_do() -> None:
    network = fuse(tiny_network(2))
    reach = network.config.receptive_radius
    assert reach is not None
    image = np.random.default_rng(0).random((1, 3, 70, 90), dtype=np.float32)
    with TorchRuntime(network) as runtime:
        tiled, whole = (in_tiles(runtime, image, scale=2, tile=tile, margin=reach) for tile in (32, 90))
        assert tiled.shape == (1, 3, 140, 180)
        np.testing.assert_allclose(tiled, whole, atol=1e-5)
        assert measure_seams(runtime, image, scale=2, tile=32, margin=1).largest_level > 2
