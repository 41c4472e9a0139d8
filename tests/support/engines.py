"""Small ONNX files by our contract that build in a second, engines on paper, and machines that are not here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from aethernet.engines.backends import Backend
from aethernet.engines.counts import TypedCounts
from aethernet.engines.identity import EngineFingerprint, EngineRecord, Message, this_system, write_record
from aethernet.engines.profiles import PROFILE_PRESETS
from aethernet.precision import Precision

__all__ = [
    "RTX_VERSION",
    "install",
    "linear_model",
    "needs_rtx",
    "no_gpu",
    "paper_engine",
    "plug_in_gpu",
    "small_model",
]

RTX_VERSION = "1.7.1.116"


def small_model(
    path: Path, precision: Precision = Precision.FP32, *, channels: int = 3, unsigned: bool = False
) -> Path:
    """Two convolutions and a shuffle, twice the size; int8 in the form TensorRT takes, or in the other one."""
    rng = np.random.default_rng(0)
    real = np.float32 if precision is Precision.FP32 or unsigned else np.float16
    element = helper.np_dtype_to_tensor_dtype(np.dtype(real))
    initializers, nodes = [], []

    def constant(name: str, value: np.ndarray) -> str:
        initializers.append(numpy_helper.from_array(value, name))
        return name

    def convolution(index: int, source: str, inputs: int, outputs: int) -> str:
        bias = constant(f"bias{index}", rng.standard_normal(outputs).astype(real))
        weight = rng.standard_normal((outputs, inputs, 3, 3)) / 9
        if precision is Precision.INT8:
            zero = constant(f"zero{index}", np.array(128, np.uint8) if unsigned else np.array(0, np.int8))
            grid = [constant(f"step{index}", np.array(0.03, real)), zero]
            integers = constant(f"integers{index}", np.rint(weight * 100).clip(-127, 127).astype(np.int8))
            scales = constant(f"scales{index}", np.full(outputs, 0.01, real))
            zeros = constant(f"zeros{index}", np.zeros(outputs, np.int8))
            nodes.append(helper.make_node("QuantizeLinear", [source, *grid], [f"q{index}"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"q{index}", *grid], [f"dq{index}"]))
            nodes.append(helper.make_node("DequantizeLinear", [integers, scales, zeros], [f"w{index}"], axis=0))
            source, kernel = f"dq{index}", f"w{index}"
        else:
            kernel = constant(f"w{index}", weight.astype(real))
        nodes.append(
            helper.make_node("Conv", [source, kernel, bias], [f"conv{index}"], pads=[1] * 4, name=f"conv{index}")
        )
        return f"conv{index}"

    first = convolution(0, "input", channels, 16)
    nodes.append(helper.make_node("LeakyRelu", [first], ["active"], alpha=0.1))
    second = convolution(1, "active", 16, 4 * channels)
    nodes.append(helper.make_node("DepthToSpace", [second], ["output"], blocksize=2, mode="CRD"))
    graph = helper.make_graph(
        nodes,
        "aethernet",
        [helper.make_tensor_value_info("input", element, ["n", channels, "h", "w"])],
        [helper.make_tensor_value_info("output", element, ["n", channels, "2*h", "2*w"])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"precision": precision.value, "scale": "2"})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def linear_model(path: Path, weight: np.ndarray | None = None) -> Path:
    """A linear layer over the channels of an image, as generation 1 has them, and a shuffle."""
    weight = np.random.default_rng(0).standard_normal((3, 12), np.float32) if weight is None else weight
    nodes = [
        helper.make_node("Transpose", ["input"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["last", "weight"], ["product"], name="linear"),
        helper.make_node("Transpose", ["product"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("DepthToSpace", ["first"], ["output"], blocksize=2, mode="CRD"),
    ]
    graph = helper.make_graph(
        nodes,
        "aethernet",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["n", 3, "2*h", "2*w"])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def paper_engine(folder: Path, **changes: object) -> Path:
    """A file called an engine, an ONNX file beside it, and an identity that fits both."""
    folder.mkdir(exist_ok=True)
    content, source = b"ftrt" + bytes(range(256)), folder / "net_fp16.onnx"
    source.write_bytes(b"not really ONNX")
    identity = EngineFingerprint(
        backend=Backend.TENSORRT_RTX,
        version=RTX_VERSION,
        system=this_system(),
        capabilities=("8.6", "8.9"),
        precision=Precision.FP16,
        channels=3,
        profiles=(PROFILE_PRESETS["tile"],),
        flags={"strongly_typed": True, "tf32": False},
        onnx=source.name,
        onnx_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )
    counts = TypedCounts(products={"fp16": 2}, others={"fp16": 1}, quantize=0, dequantize=0)
    said = Message(severity="warning", text="something", count=2)
    record = EngineRecord(
        identity=identity.model_copy(update=changes), network=counts, messages=(said,), memory={"tile": 2**20}
    )
    engine = folder / "net_fp16_tile_tensorrt_rtx_sm86-89.engine"
    engine.write_bytes(content)
    write_record(record, engine)
    return engine


def plug_in_gpu(patch: pytest.MonkeyPatch, folder: Path, told: str) -> None:
    """Let ``nvidia-smi`` describe a GPU: name, compute capability, driver, MiB, UUID."""
    folder.mkdir(exist_ok=True)
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{told}'\n")
    tool.chmod(0o755)
    patch.setenv("PATH", str(folder), prepend=":")
    patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def no_gpu(patch: pytest.MonkeyPatch) -> None:
    """Hide every GPU."""
    patch.setenv("CUDA_VISIBLE_DEVICES", "")


def install(patch: pytest.MonkeyPatch, folder: Path, package: str, version: str) -> None:
    """Let a package seem to be installed, without any code."""
    place = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    patch.syspath_prepend(folder)


def needs_rtx() -> None:
    """Skip where engines cannot be built."""
    pytest.importorskip("tensorrt_rtx", reason="needs the package tensorrt-rtx")
