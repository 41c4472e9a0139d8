"""int8 of published checkpoints trained for it, against their own networks; their weights are random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aethernet
from aethernet.export import ExportConfig
from aethernet.export.int8 import export_int8, trace_int8
from aethernet.export.lint import lint_onnx
from aethernet.images.files import load_picture, sample_pictures
from aethernet.quantization.post_training import quantize
from aethernet.runtimes.opening import open_runtime

pytestmark = pytest.mark.slow

# dB of PSNR to the float network. Generation 2's file holds fake-quantise modules, so its own answer is recorded, 34.2;
# the observers of the others never rounded anything: what is asked is what 8 bits over their ranges give in a
# simulation of generation 1 (30.2), and for generation 3 the same less what 7 bits cost.
LEAST = {"v1_qat_x2": 28.2, "v2_qat_x2": 32.2, "v3_qat_x2": 32.0}


def decibels(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((found.clip(0, 1) - wanted.clip(0, 1)) ** 2)))


@pytest.mark.parametrize("name", LEAST)
def test_both_files_pass_the_lint_and_are_as_near_as_fake_quantisation(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    network = aethernet.load(shared_data / "parity" / f"{name}.pth")
    with np.load(shared_data / "parity" / f"{name}.npz") as arrays:
        picture, wanted, own = (arrays[key] for key in ("input", "output_float", "output"))
    fallback = [load_picture(path, 3) for path in sample_pictures()]

    made = quantize(aethernet.fuse(network.model), records=network.quantization, fallback=fallback)

    assert any(one.source.startswith("records: ") for one in made.tensors)
    traced = trace_int8(made.model, ExportConfig())
    for tensorrt in (False, True):
        path = tmp_path / f"int8{tensorrt}.onnx"
        export_int8(made.model, path, ExportConfig(), {}, tensorrt=tensorrt, traced=traced)
        assert lint_onnx(path).ok
        with open_runtime(path) as runtime:
            found = decibels(runtime.infer(picture), wanted)
        assert found > LEAST[name]
        if not np.array_equal(own, wanted):
            assert found > decibels(own, wanted) - 2
