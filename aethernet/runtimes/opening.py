"""Which runtimes there are, which can be used here, and the one for a file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from aethernet.errors import UsageError
from aethernet.install import requirement
from aethernet.runtimes.protocol import Runtime

__all__ = ["RUNTIMES", "open_runtime", "runtimes_here"]

RUNTIMES = (
    "ncnn-cpu",
    "ncnn-vulkan",
    "onnxruntime-cpu",
    "onnxruntime-cuda",
    "onnxruntime-directml",
    "openvino-cpu",
    "pytorch-cpu",
    "pytorch-cuda",
    "tensorrt",
    "tensorrt-rtx",
)
"""Names of all runtimes. The part before the dash alone means the best device of that library."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "directml": "DmlExecutionProvider"}


def open_runtime(path: Path | str, *, name: str | None = None, threads: int = 0) -> Runtime:
    """The runtime for a released file.

    Args:
        path: The file.
        name: One of :data:`RUNTIMES`; None takes the CPU, with ONNX Runtime for ``.onnx`` and PyTorch for checkpoints.
            An ``.engine`` file knows its own, and ncnn's files take ncnn on the CPU.
        threads: CPU threads; 0 lets the runtime choose.

    Raises:
        UsageError: There is no runtime of that name.
    """
    suffix = Path(path).suffix
    if suffix == ".engine":
        from aethernet.runtimes.tensorrt import TensorRtRuntime

        return TensorRtRuntime(path)
    if name is None and suffix in (".param", ".bin"):
        name = "ncnn-cpu"
    if name is None:
        name = "onnxruntime-cpu" if suffix == ".onnx" else "pytorch-cpu"
    library, _, device = name.partition("-")
    match library:
        case _ if name not in RUNTIMES:
            raise UsageError(f"expected a runtime of {', '.join(RUNTIMES)}, found '{name}'")
        case "onnxruntime":
            from aethernet.runtimes.onnxruntime import OnnxRuntime

            return OnnxRuntime(path, threads=threads, provider=_PROVIDERS[device])
        case "ncnn":
            from aethernet.runtimes.ncnn import NcnnRuntime

            return NcnnRuntime(path, threads=threads, vulkan=device == "vulkan")
        case "openvino":
            from aethernet.runtimes.openvino import OpenVinoRuntime

            return OpenVinoRuntime(path, threads=threads)
        case "tensorrt":
            raise UsageError(f"expected an .engine file for {name}, found {Path(path).name}")
        case _:
            from aethernet.runtimes.pytorch import TorchRuntime

            return TorchRuntime.from_file(path, threads=threads, device=device)


@cache
def runtimes_here() -> dict[str, str]:
    """Runtime -> what it lacks on this machine; an empty text for those that can be used.

    Looks at what is installed and whether there is an NVIDIA driver; PyTorch is not imported for it.
    """
    cuda = "" if _has_nvidia_gpu() else "no NVIDIA GPU here"
    providers: list[str] = []
    if _installed("onnxruntime"):
        import onnxruntime

        providers = onnxruntime.get_available_providers()
    missing = {
        f"onnxruntime-{device}": "" if provider in providers else f"this onnxruntime has no {provider}"
        for device, provider in _PROVIDERS.items()
    }
    missing["onnxruntime-cuda"] = missing["onnxruntime-cuda"] or cuda
    missing["ncnn-cpu"] = _lack("ncnn", "ncnn")
    missing["ncnn-vulkan"] = missing["ncnn-cpu"] or _lacks_vulkan()
    missing["openvino-cpu"] = _lack("openvino", "openvino")
    missing["pytorch-cpu"] = _lack("torch", "convert")
    missing["pytorch-cuda"] = missing["pytorch-cpu"] or cuda
    missing["tensorrt"] = _lack("tensorrt", "tensorrt") or cuda
    missing["tensorrt-rtx"] = _lack("tensorrt_rtx", "tensorrt-rtx") or cuda
    return {name: missing[name] for name in RUNTIMES}


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _lack(module: str, extra: str) -> str:
    return "" if _installed(module) else f"the Python package '{module}' is not installed ({requirement(extra)})"


def _lacks_vulkan() -> str:
    from aethernet.runtimes.ncnn import vulkan_devices

    return "" if vulkan_devices() else "no Vulkan device here"


def _has_nvidia_gpu() -> bool:
    import ctypes
    import sys

    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
