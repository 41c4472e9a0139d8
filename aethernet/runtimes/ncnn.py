"""ncnn: on the CPU in float32, and with Vulkan in fp16 as the programs of that family compute.

The rest of a release is proven against PyTorch; this is how the proof is made for the ncnn files, so the options are
those of the programs, not the fastest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from aethernet.errors import ComparisonError, ExportError, MissingDependencyError
from aethernet.graphs.ncnn import read_param

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["NcnnRuntime", "VulkanDevice", "vulkan_devices"]

_SOFTWARE = 3
"""ncnn's type of a device that is a CPU: 0 is a discrete card, 1 an integrated one, 2 a virtual one."""


class VulkanDevice:
    """A device that ncnn found."""

    def __init__(self, index: int, name: str, kind: int) -> None:
        self.index, self.name = index, name
        self.software = kind == _SOFTWARE
        """Whether it is a driver that computes on the CPU: right, but very slow."""


def vulkan_devices() -> list[VulkanDevice]:
    """What ncnn can compute on through Vulkan here; empty without ncnn, without a driver, or without a device."""
    try:
        import ncnn
    except ImportError:
        return []
    with _quiet():
        count = ncnn.get_gpu_count()  # the first call starts Vulkan, and reports every device on the error stream
    found = [(index, ncnn.get_gpu_info(index)) for index in range(count)]
    return [VulkanDevice(index, str(info.device_name()), int(info.type())) for index, info in found]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a C++ library writes to the error stream from it."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class NcnnRuntime:
    """Runs a pair of files ``NAME.param`` and ``NAME.bin`` with one input and one output, ours or another tool's.

    Args:
        path: Either file; the other lies beside it.
        threads: CPU threads; 0 lets ncnn choose.
        vulkan: Compute through Vulkan, with fp16 storage and arithmetic.
        half: With Vulkan, whether in fp16; False for float32.
    """

    def __init__(self, path: Path | str, *, threads: int = 0, vulkan: bool = False, half: bool = True) -> None:
        self.path = Path(path)
        self.threads = threads
        self.vulkan = vulkan
        self.half = half and vulkan
        self.name = "ncnn-vulkan" if vulkan else "ncnn-cpu"
        self._net: Any = None
        self._blobs = ("data", "output")

    def __enter__(self) -> Self:
        """Load the network.

        Raises:
            MissingDependencyError: ncnn is not installed.
            ComparisonError: There is no Vulkan device, or ncnn cannot load the files.
        """
        try:
            import ncnn
        except ImportError as error:
            raise MissingDependencyError("ncnn", extra="ncnn") from error
        param, weights = self.path.with_suffix(".param"), self.path.with_suffix(".bin")
        try:
            model = read_param(param)
        except ExportError as error:
            raise ComparisonError(str(error)) from error
        if (len(model.inputs), len(model.outputs)) != (1, 1):
            raise ComparisonError(
                f"expected one input and one output in {param.name}, found {model.inputs} and {model.outputs}"
            )
        self._blobs = model.inputs[0], model.outputs[0]
        if not weights.is_file():
            raise ComparisonError(f"expected the weights {weights.name} beside {param.name}, found no such file")
        net = ncnn.Net()
        options = net.opt
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(options, name, self.half)
        options.use_bf16_storage = False  # left alone, numbers depend on the processor
        options.use_vulkan_compute = self.vulkan
        if self.threads:
            options.num_threads = self.threads
        if self.vulkan:
            net.set_vulkan_device(self._device())
        with _quiet():
            loaded = net.load_param(str(param)) == 0 and net.load_model(str(weights)) == 0
        if not loaded:
            net.clear()
            raise ComparisonError(f"ncnn cannot load {param.name}: it lacks a layer, or the files do not fit together")
        self._net = net
        return self

    def _device(self) -> int:
        devices = vulkan_devices()
        if not devices:
            raise ComparisonError("expected a Vulkan device, found none")
        return min(devices, key=lambda device: (device.software, device.index)).index

    def infer(self, image: ImageArray) -> ImageArray:
        return np.stack([self._run(one) for one in image])

    def _run(self, image: ImageArray) -> ImageArray:
        import ncnn

        # ncnn looks at the array's memory and does not keep it alive, so it has a name until it is copied; and it is
        # copied because ncnn's kernels expect every channel to begin at a multiple of 16 bytes.
        memory = np.ascontiguousarray(image, dtype=np.float32)
        given = ncnn.Mat(memory).clone()
        with self._net.create_extractor() as extractor:
            extractor.input(self._blobs[0], given)
            status, output = extractor.extract(self._blobs[1])
            if status != 0:
                raise ComparisonError(f"ncnn cannot run {self.path.name}: it answers {status}")
            result: ImageArray = np.array(output, dtype=np.float32)
        return result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._net is not None:
            self._net.clear()
        self._net = None
