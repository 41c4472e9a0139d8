"""The one function for people who want an ONNX file and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import aethernet
from aethernet.errors import UsageError
from aethernet.export import ExportConfig, export_onnx
from tests.support.exports import REFERENCE, Export
from tests.support.images import natural_image


@pytest.mark.slow
def test_fp32_file_is_that_of_the_release(export: Export, tmp_path: Path) -> None:
    exported, config = export(REFERENCE, static=(12, 20)), ExportConfig(static=(12, 20))

    description = export_onnx(exported.network, tmp_path / "out.onnx", config=config, metadata={"license": "test"})

    assert description == exported.description
    assert (tmp_path / "out.onnx").read_bytes() == exported.path.read_bytes()


def test_fp16_file_is_made_with_the_library_s_own_images(export: Export, tmp_path: Path) -> None:
    description = export_onnx(export(REFERENCE).network, tmp_path / "out.onnx", precision="fp16")

    assert description.inputs == {"input": ("float16", ("n", 1, "h", "w"))}
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.slow
def test_fp16_file_is_made_with_given_images_at_a_fixed_size(export: Export, tmp_path: Path) -> None:
    network, config = export(REFERENCE).network, ExportConfig(static=(12, 20))
    asked: list[int] = []

    def images() -> list[np.ndarray]:
        asked.append(1)
        return [natural_image(12, 20, channels=1).numpy()]

    description = export_onnx(network, tmp_path / "out.onnx", precision="fp16", config=config, images=images())

    assert description.inputs == {"input": ("float16", (1, 1, 12, 20))}
    assert asked == [1]


@pytest.mark.parametrize("precision", ["int8"])
def test_precision_without_an_onnx_form_is_a_usage_error(export: Export, tmp_path: Path, precision: str) -> None:
    with pytest.raises(UsageError, match="fp32 or fp16, found int8"):
        export_onnx(export(REFERENCE).network, tmp_path / "out.onnx", precision=precision)

    assert list(tmp_path.iterdir()) == []


def test_function_is_offered_by_the_package_itself() -> None:
    assert aethernet.export_onnx is export_onnx


@pytest.mark.parametrize("opset", [17, 18])
def test_mish_is_written_at_every_opset(tmp_path: Path, opset: int) -> None:
    from torch import nn

    from aethernet.runtimes.onnxruntime import OnnxRuntime
    from tests.support.third_party import around

    network = around(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Mish(), nn.Conv2d(3, 3, 3, padding=1)))

    description = export_onnx(network, tmp_path / "out.onnx", config=ExportConfig(opset=opset))

    assert description.opset == opset
    image = np.random.default_rng(0).random((1, 3, 17, 21), dtype=np.float32) * 40 - 20
    with OnnxRuntime(tmp_path / "out.onnx") as runtime:
        found = runtime.infer(image)
    assert np.abs(found - network(torch.from_numpy(image)).numpy()).max() < 1e-4
