"""A runtime takes and gives float32 images whatever is inside the file."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from aethernet.checkpoint import save_pth, save_safetensors
from aethernet.errors import ComparisonError, MissingDependencyError
from aethernet.export import export_onnx
from aethernet.networks.fusion import fuse
from aethernet.runtimes.onnxruntime import OnnxRuntime
from aethernet.runtimes.opening import open_runtime
from aethernet.runtimes.openvino import OpenVinoRuntime
from aethernet.runtimes.pytorch import TorchRuntime
from tests.support.images import natural_image
from tests.support.networks import tiny_network

IMAGE = natural_image(9, 7).numpy()


def doubling_file(path: Path, element: int = TensorProto.FLOAT) -> Path:
    """An ONNX file that computes 2 * input."""
    shape = ["n", 3, "h", "w"]
    two = onnx.numpy_helper.from_array(np.array(2, dtype=onnx.helper.tensor_dtype_to_np_dtype(element)), "two")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["input", "two"], ["output"])],
        "doubling",
        [onnx.helper.make_tensor_value_info("input", element, shape)],
        [onnx.helper.make_tensor_value_info("output", element, shape)],
        [two],
    )
    opset = onnx.helper.make_opsetid("", 17)
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())
    return path


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def test_pytorch_runtime_gives_what_the_module_gives() -> None:
    network = tiny_network(2, depths=(1,))

    with TorchRuntime(copy.deepcopy(network), threads=1) as runtime:
        output = runtime.infer(IMAGE)

    assert np.array_equal(output, network(torch.from_numpy(IMAGE)).detach().numpy())
    assert output.dtype == np.float32


def test_network_in_training_mode_is_run_in_evaluation_mode() -> None:
    network = tiny_network(2, depths=(1,))
    expected = network(torch.from_numpy(IMAGE)).detach().numpy()

    with TorchRuntime(network.train()) as runtime:
        output = runtime.infer(IMAGE)

    assert np.array_equal(output, expected)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_half_precision_weights_are_widened_and_computed_with_in_float32(tmp_path: Path, ending: str) -> None:
    network = fuse(tiny_network(2, depths=(1,)))
    save = {"safetensors": save_safetensors, "pth": save_pth}[ending]
    save(network, tmp_path / f"half.{ending}", dtype=torch.float16)
    rounded = copy.deepcopy(network).half().float()

    with open_runtime(tmp_path / f"half.{ending}") as runtime:
        output = runtime.infer(IMAGE)

    assert runtime.name == "pytorch-cpu"
    assert output.dtype == np.float32
    assert np.array_equal(output, rounded(torch.from_numpy(IMAGE)).numpy())


class AnswersChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(memory_format=torch.channels_last)


def test_result_is_in_c_order_also_when_the_module_answers_channels_last() -> None:
    with TorchRuntime(AnswersChannelsLast()) as runtime:
        output = runtime.infer(IMAGE)

    assert output.flags.c_contiguous
    assert np.array_equal(output, IMAGE)
    assert output.tobytes() == IMAGE.tobytes()


def test_result_can_be_written_to() -> None:
    with TorchRuntime(AnswersChannelsLast()) as runtime:
        output = runtime.infer(IMAGE.copy())

    output += 1
    assert output.max() > 1


# --- ONNX Runtime ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16], ids=["fp32", "fp16"])
def test_onnx_runtime_casts_to_and_from_the_file_s_type(tmp_path: Path, element: int) -> None:
    with OnnxRuntime(doubling_file(tmp_path / "a.onnx", element), threads=1) as runtime:
        output = runtime.infer(IMAGE)

    assert (output.dtype, output.flags.c_contiguous) == (np.float32, True)
    assert output == pytest.approx(2 * IMAGE, abs=2e-3 if element == TensorProto.FLOAT16 else 0)


def test_onnx_runtime_takes_images_in_any_memory_layout(tmp_path: Path) -> None:
    mirrored = IMAGE[:, :, :, ::-1]

    with OnnxRuntime(doubling_file(tmp_path / "a.onnx")) as runtime:
        output = runtime.infer(mirrored)

    assert np.array_equal(output, 2 * mirrored)


@pytest.mark.parametrize("content", [b"", b"not a model"], ids=["empty", "text"])
def test_broken_onnx_file_is_a_comparison_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.onnx").write_bytes(content)

    with (
        pytest.raises(ComparisonError, match=r"ONNX Runtime cannot load broken\.onnx"),
        OnnxRuntime(tmp_path / "broken.onnx"),
    ):
        pass


def test_missing_onnx_file_is_a_comparison_error(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="cannot load"), OnnxRuntime(tmp_path / "nowhere.onnx"):
        pass


def test_onnx_file_is_opened_by_its_ending(tmp_path: Path) -> None:
    runtime = open_runtime(doubling_file(tmp_path / "a.onnx"), threads=1)

    with runtime:
        output = runtime.infer(IMAGE)

    assert runtime.name == "onnxruntime-cpu"
    assert np.array_equal(output, 2 * IMAGE)


def test_file_is_touched_only_inside_the_block(tmp_path: Path) -> None:
    runtime = open_runtime(tmp_path / "later.onnx")
    doubling_file(tmp_path / "later.onnx")

    with runtime:
        (tmp_path / "later.onnx").unlink()

        assert np.array_equal(runtime.infer(IMAGE), 2 * IMAGE)


# --- OpenVINO --------------------------------------------------------------------------------------------------------

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")


@needs_openvino
@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16], ids=["fp32", "fp16"])
def test_openvino_casts_to_and_from_the_file_s_type_in_any_memory_layout(tmp_path: Path, element: int) -> None:
    mirrored = IMAGE[:, :, :, ::-1]

    with OpenVinoRuntime(doubling_file(tmp_path / "a.onnx", element), threads=1) as runtime:
        output, other = runtime.infer(IMAGE), runtime.infer(mirrored)

    assert (output.dtype, output.flags.c_contiguous) == (np.float32, True)
    assert output == pytest.approx(2 * IMAGE, abs=2e-3 if element == TensorProto.FLOAT16 else 0)
    assert np.array_equal(other, output[:, :, :, ::-1])


@needs_openvino
def test_openvino_computes_the_network_s_image(tmp_path: Path) -> None:
    network = fuse(tiny_network(2, depths=(1,)))
    export_onnx(network, tmp_path / "a.onnx")

    with OpenVinoRuntime(tmp_path / "a.onnx", threads=1) as runtime:
        output = runtime.infer(IMAGE)

    assert np.allclose(output, network(torch.from_numpy(IMAGE)).detach().numpy(), atol=1e-4)


@needs_openvino
def test_openvino_names_a_file_it_cannot_load(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")

    with (
        pytest.raises(ComparisonError, match=r"OpenVINO cannot load broken\.onnx"),
        OpenVinoRuntime(tmp_path / "broken.onnx"),
    ):
        pass


def test_without_openvino_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)

    with (
        pytest.raises(MissingDependencyError, match="openvino") as raised,
        OpenVinoRuntime(doubling_file(tmp_path / "a.onnx")),
    ):
        pass

    assert "aethernet-sr[openvino]" in raised.value.hint


@pytest.mark.parametrize(
    ("provider", "settings"), [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]
)
def test_float32_is_not_rounded_to_tf32_by_onnx_runtime(
    provider: str, settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def session(path: str, options: object, providers: list[object]) -> object:
        asked.extend(providers)
        raise RuntimeError("enough")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    path = tmp_path / "any.onnx"
    path.write_bytes(b"")
    with pytest.raises(ComparisonError, match="enough"), OnnxRuntime(path, provider=provider):
        pass

    assert asked == [(provider, settings)]


def test_float32_is_not_rounded_to_tf32_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    class Asking(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.backends.cudnn.allow_tf32)
            return x

    before = torch.backends.cudnn.allow_tf32
    runtime = TorchRuntime(Asking(), device="meta")
    monkeypatch.setattr(torch, "from_numpy", lambda array: torch.empty(array.shape))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_: self)  # there is no card to go to
    runtime.infer(np.zeros((1, 3, 4, 4), np.float32))

    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 is before
