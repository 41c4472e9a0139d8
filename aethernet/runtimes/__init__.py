"""Ways to run a network, behind one small protocol.

A runtime takes and gives float32 pictures whatever its own precision, touches its device only between ``__enter__`` and
``__exit__``, and is opened by :func:`open_runtime` from a released file.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from aethernet.pictures import Picture

__all__ = ["Runtime", "open_runtime"]


class Runtime(Protocol):
    """Runs one network."""

    name: str
    """Such as ``onnxruntime-cpu``."""

    def __enter__(self) -> Self:
        """Load the network onto its device."""

    def infer(self, picture: Picture) -> Picture:
        """[N, C, H, W] float32 in [0, 1] -> [N, C, s*H, s*W] float32, not clipped."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of device and memory."""


def open_runtime(path: Path | str, *, threads: int = 0) -> Runtime:
    """The runtime for a released file: ONNX Runtime for ``.onnx``, TensorRT for ``.engine``, PyTorch for checkpoints.

    Args:
        path: The file.
        threads: CPU threads; 0 lets the runtime choose.
    """
    if Path(path).suffix == ".onnx":
        from aethernet.runtimes.onnxruntime import OnnxRuntime

        return OnnxRuntime(path, threads=threads)
    if Path(path).suffix == ".engine":
        from aethernet.runtimes.engine import EngineRuntime

        return EngineRuntime(path)
    from aethernet.runtimes.pytorch import TorchRuntime

    return TorchRuntime.from_file(path, threads=threads)
