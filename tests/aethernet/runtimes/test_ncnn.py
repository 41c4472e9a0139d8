"""ncnn on the CPU and through Vulkan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aethernet.errors import ComparisonError
from aethernet.export.ncnn import export_ncnn
from aethernet.networks.fusion import fuse
from aethernet.runtimes.ncnn import NcnnRuntime, vulkan_devices
from aethernet.runtimes.opening import open_runtime
from aethernet.runtimes.pytorch import TorchRuntime
from tests.support.networks import tiny_network

pytest.importorskip("ncnn", reason="needs ncnn: the extra 'ncnn'")
vulkan = pytest.mark.skipif(
    not vulkan_devices(), reason="no Vulkan device here; on Debian, mesa-vulkan-drivers brings one that needs no card"
)


@pytest.fixture(scope="module")
def param(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_ncnn(fuse(tiny_network(3, channel_attention=True)), tmp_path_factory.mktemp("n"), "tiny").param


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def test_a_batch_and_an_array_in_another_order_give_the_same_images(param: Path) -> None:
    image = noise(2, 3, 17, 22)
    turned = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with open_runtime(param) as runtime:
        together = runtime.infer(image)
        assert runtime.name == "ncnn-cpu"
        np.testing.assert_array_equal(together[1:], runtime.infer(image[1:]))
        np.testing.assert_array_equal(together, runtime.infer(turned))


@vulkan
def test_vulkan_in_fp16_stays_near_the_network_and_swapped_channels_do_not(param: Path) -> None:
    image = noise(1, 3, 17, 22)
    with TorchRuntime(fuse(tiny_network(3, channel_attention=True))) as network:
        truth = network.infer(image)
    span = truth.max() - truth.min()
    with NcnnRuntime(param, vulkan=True) as runtime:
        assert np.abs(runtime.infer(image) - truth).max() < 0.02 * span
        assert np.abs(runtime.infer(image[:, ::-1]) - truth).max() > 0.05 * span


def test_a_renamed_blob_is_found_and_two_outputs_are_refused(param: Path, tmp_path: Path) -> None:
    text = param.read_text()
    (tmp_path / "a.bin").write_bytes(param.with_suffix(".bin").read_bytes())
    (tmp_path / "a.param").write_text(text.replace(" output", " out0"))
    with NcnnRuntime(tmp_path / "a.param") as runtime:
        assert runtime.infer(noise(1, 3, 9, 9)).shape == (1, 3, 18, 18)
    (tmp_path / "a.param").write_text(text.replace(" data ", " other ", 1).replace("0 1 data", "0 2 data data2", 1))
    with pytest.raises(ComparisonError, match="expected one input and one output"):
        NcnnRuntime(tmp_path / "a.param").__enter__()


def test_missing_weights_and_unknown_layers_are_errors(param: Path, tmp_path: Path) -> None:
    (tmp_path / "a.param").write_text(param.read_text())
    with pytest.raises(ComparisonError, match=r"expected the weights a\.bin beside a\.param"):
        NcnnRuntime(tmp_path / "a.param").__enter__()
    (tmp_path / "a.bin").write_bytes(param.with_suffix(".bin").read_bytes())
    (tmp_path / "a.param").write_text(param.read_text().replace("Swish ", "Swosh "))
    with pytest.raises(ComparisonError, match=r"ncnn cannot load a\.param"):
        NcnnRuntime(tmp_path / "a.param").__enter__()
