"""What of aethernet works on this machine: every runtime tried on a network whose result is known, extras, devices.

Nothing here names the machine, its user or a secret, so that the answer can be copied into a report of a fault.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.errors import AethernetError
from aethernet.graphs.ncnn import Layer, NcnnModel, Weights, write_ncnn
from aethernet.host import describe_host, package_version, processor_features
from aethernet.install import DISTRIBUTION, requirement
from aethernet.processes import ChildProcess
from aethernet.runtimes import open_runtime, runtimes_here
from aethernet.version import __version__

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

__all__ = ["PURPOSES", "diagnose", "try_runtime"]

PURPOSES: Mapping[str, str] = {
    "convert": "load, fuse, export and compare checkpoints",
    "flows": "make whole releases",
    "hub": "publish to and download from the Hugging Face Hub",
    "images": "colours of 16 bits, TIFF as output",
    "video": "upscale videos",
    "spandrel": "networks of other architectures",
    "openvino": "run on Intel processors by OpenVINO",
    "ncnn": "run on any card through Vulkan",
    "tensorrt": "build and run TensorRT engines",
    "tensorrt-rtx": "build and run TensorRT engines for RTX cards",
    "signing": "sign releases, check signatures",
    "cluster": "release on several machines",
    "perceptual": "LPIPS and DISTS beside PSNR",
    "training": "train and fine-tune",
}
"""Extra -> what it is for."""

_PATIENCE_S = 90.0
"""For one runtime: PyTorch alone takes many seconds to import on a slow disk."""
_SHORT_FLOATS = ("ncnn-vulkan", "onnxruntime-cuda", "onnxruntime-directml", "pytorch-cuda", "tensorrt", "tensorrt-rtx")
"""Runtimes that may compute in fp16 or TF32, 11 bits of mantissa; all others compute in float32."""
_SHORT_TOLERANCE, _TOLERANCE = 1e-2, 1e-5
"""Of values up to 4; a kernel, channel or border that is wrong is off by tenths."""


def diagnose(*, tell: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Everything that decides what works here; JSON values only.

    Args:
        tell: Called with the name of each runtime before it is tried, which takes seconds.

    Returns:
        ``aethernet`` (version, Python), ``machine``, ``devices``, ``runtimes`` (name -> ``state``, one of ``works``,
        ``missing``, ``broken``, and ``words``), ``extras`` (name -> ``installed``, ``missing``, ``purpose``, ``add``),
        ``hub`` and ``cache``.
    """
    return {
        "aethernet": {
            "version": __version__,
            "python": platform.python_version(),
            "onnxruntime": package_version("onnxruntime"),
        },
        "machine": {**describe_host(), "features": list(processor_features()), "memory_gb": _memory_gb()},
        "devices": _devices(),
        "runtimes": {name: _tried(name, lack, tell) for name, lack in runtimes_here().items()},
        "extras": dict(_extras()),
        "hub": {"token": _token()},
        "cache": _cache(),
    }


def _memory_gb() -> float:
    import psutil

    return round(psutil.virtual_memory().total / 1e9, 1)


def _devices() -> dict[str, Any]:
    from aethernet.engines.backends import find_gpu
    from aethernet.runtimes.ncnn import vulkan_devices

    gpu = find_gpu()
    return {
        "nvidia": gpu.model_dump() if gpu else None,
        "vulkan": [
            f"{one.name} (software: never chosen by itself)" if one.software else one.name for one in vulkan_devices()
        ],
    }


# --- runtimes --------------------------------------------------------------------------------------------------------


def _tried(name: str, lack: str, tell: Callable[[str], object]) -> dict[str, str]:
    if lack:
        return {"state": "missing", "words": lack}
    tell(name)
    return try_runtime(name)


def try_runtime(name: str, seconds: float = _PATIENCE_S) -> dict[str, str]:
    """Whether a runtime that is installed computes what it should, found out in a process of its own.

    A driver that crashes takes only that process along.

    Args:
        name: One of :data:`aethernet.runtimes.RUNTIMES`.
        seconds: How long to wait.
    """
    with ChildProcess(partial(_serve, name)) as child:
        try:
            answer: dict[str, str] = child.receive(seconds)
        except TimeoutError:
            answer = {"state": "broken", "words": f"no answer within {seconds:g} s"}
        except EOFError:
            answer = {"state": "broken", "words": f"its process ended with {child.exit_code}"}
    return answer


def _serve(name: str, connection: Connection) -> None:
    try:
        answer = _checked(name)
    except AethernetError as error:
        answer = {"state": "broken", "words": str(error)}
    except Exception as error:  # noqa: BLE001 (a runtime raises what it likes)
        answer = {"state": "broken", "words": f"{type(error).__name__}: {error}"[:400]}
    connection.send(answer)


def _checked(name: str) -> dict[str, str]:
    start = time.perf_counter()
    first, second, image = _network()
    wanted = _convolved(np.maximum(_convolved(image, first), 0), second)
    with TemporaryDirectory(prefix="aethernet-doctor-") as folder:
        if name.startswith("pytorch"):
            from aethernet.runtimes.pytorch import TorchRuntime

            opened: Any = TorchRuntime(_module(first, second), device=name.partition("-")[2])
        elif name.startswith("tensorrt"):
            _write_onnx(Path(folder, "three.onnx"), first, second)
            opened = open_runtime(_engine(Path(folder, "three.onnx"), name))
        elif name.startswith("ncnn"):
            _write_ncnn(Path(folder, "three.param"), first, second)
            opened = open_runtime(Path(folder, "three.param"), name=name)
        else:
            _write_onnx(Path(folder, "three.onnx"), first, second)
            opened = open_runtime(Path(folder, "three.onnx"), name=name)
        with opened:
            found = opened.infer(image)
    difference = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("inf")
    took = time.perf_counter() - start
    tolerance = _SHORT_TOLERANCE if name in _SHORT_FLOATS else _TOLERANCE
    if not difference <= tolerance:
        return {"state": "broken", "words": f"off by {difference:.2g} where {tolerance:g} is allowed"}
    return {"state": "works", "words": f"largest error {difference:.1g}, {took:.1f} s with its start"}


def _network() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Weights of two 3x3 convolutions [O, I, 3, 3], a ReLU is between them, and an image [1, 3, 9, 11] in [0, 1]."""
    numbers = np.random.default_rng(20261127)
    first, second = (numbers.normal(0, 0.2, shape).astype(np.float32) for shape in ((8, 3, 3, 3), (3, 8, 3, 3)))
    return first, second, numbers.random((1, 3, 9, 11), dtype=np.float32)


def _convolved(image: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a convolution with zero padding gives, by nothing but NumPy."""
    height, width = image.shape[2:]
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifted = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    kernels = weight.reshape(*weight.shape[:2], 9)
    convolved: NDArray[np.float32] = np.sum(
        [np.einsum("nihw,oi->nohw", one, kernels[:, :, k]) for k, one in enumerate(shifted)], axis=0
    )
    return convolved


def _module(first: NDArray[np.float32], second: NDArray[np.float32]) -> Any:
    import torch
    from torch import nn

    layers = [nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False) for weight in (first, second)]
    for layer, weight in zip(layers, (first, second), strict=True):
        layer.weight.data = torch.from_numpy(weight)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def _engine(source: Path, name: str) -> Path:
    """An engine for the check image, of the backend that a runtime is called after."""
    from aethernet.engines.backends import Backend, find_gpu
    from aethernet.engines.builder import build_engine, plan_builds
    from aethernet.engines.profiles import parse_profile

    gpu = find_gpu()
    backend = Backend(name.replace("-", "_"))
    (config,) = plan_builds(
        backend, (parse_profile("1x9x11"),), capabilities=(gpu.capability,) if gpu else ("8.9",), timeout=_PATIENCE_S
    )
    return build_engine(source, source.with_suffix(".engine"), config).engine


def _write_onnx(path: Path, first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape: list[str | int | None] = [1, 3, "height", "width"]
    nodes = [
        helper.make_node("Conv", ["input", "first"], ["a"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["output"], kernel_shape=[3, 3], pads=[1] * 4),
    ]
    graph = helper.make_graph(
        nodes,
        "three layers",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def _write_ncnn(param: Path, first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    def convolution(name: str, entry: str, result: str, weight: NDArray[np.float32]) -> Layer:
        sizes = {0: weight.shape[0], 1: 3, 4: 1, 5: 0, 6: weight.size}
        return Layer("Convolution", name, [entry], [result], dict(sizes), [Weights(weight.reshape(-1), tagged=True)])

    layers = [
        Layer("Input", "data", [], ["data"]),
        convolution("first", "data", "a", first),
        Layer("ReLU", "relu", ["a"], ["b"]),
        convolution("second", "b", "output", second),
    ]
    write_ncnn(NcnnModel(layers), param, param.with_suffix(".bin"), half=False)


# --- what is installed -----------------------------------------------------------------------------------------------


def _extras() -> Iterator[tuple[str, dict[str, Any]]]:
    """Extra -> whether all it asks for is here, and what is not."""
    from packaging.requirements import Requirement

    try:
        lines = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:  # a source tree on the path, not installed
        lines = []

    def asked(extra: str) -> Iterator[Requirement]:
        for line in lines:
            if line.marker is None or not line.marker.evaluate({"extra": extra}) or line.marker.evaluate({"extra": ""}):
                continue
            if line.name == DISTRIBUTION:
                for inner in line.extras:
                    yield from asked(inner)
            else:
                yield line

    for extra, purpose in PURPOSES.items():
        wanted = list(asked(extra))
        lacking = sorted({f"{one.name}{one.specifier}" for one in wanted if not _satisfied(one.name, one.specifier)})
        yield (
            extra,
            {
                "installed": bool(wanted) and not lacking,
                "missing": lacking,
                "purpose": purpose,
                "add": f"pip install '{requirement(extra)}'",
            },
        )


def _satisfied(name: str, specifier: Any) -> bool:
    found = package_version(name)
    return found is not None and specifier.contains(found, prereleases=True)


def _token() -> str:
    """Whether there is a token for the Hub; never the token."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        return "unknown: huggingface_hub is not installed"
    if os.environ.get("HF_TOKEN"):
        return "from HF_TOKEN"
    return "from `hf auth login`" if get_token() else "none"


def _cache() -> dict[str, Any]:
    """Size of each part of the cache, in bytes."""
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("aethernet"))
    parts = sorted(part for part in folder.iterdir() if part.is_dir()) if folder.is_dir() else []
    sizes = {part.name: sum(_size(file) for file in part.rglob("*")) for part in parts}
    home = Path.home()
    shown = f"~{os.sep}{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)
    return {"folder": shown, "bytes": sizes}


def _size(file: Path) -> int:
    try:
        return 0 if file.is_dir() or file.is_symlink() else file.stat().st_size
    except OSError:  # gone meanwhile
        return 0
