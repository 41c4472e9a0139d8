"""One form in a process of its own: loaded there, run when told, its memory told apart from everyone else's."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aethernet.errors import BenchmarkError
from aethernet.processes import ChildProcess

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from aethernet.images.files import ImageArray
    from aethernet.runtimes.protocol import Runtime

__all__ = ["LoadReport", "RuntimeLibrary", "VariantProcess"]

_PAUSE = 0.02
"""Seconds between two forms: threads of the one before that wait spinning have gone to sleep by then."""


class RuntimeLibrary(StrEnum):
    """What runs a file."""

    PYTORCH = "pytorch"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    NCNN = "ncnn"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """A form that is ready to run."""

    runtime: str
    """Such as ``onnxruntime-cpu``."""
    load_ms: float
    """From opening the file to ready, libraries imported before; without the first run."""
    memory: int | None
    """Bytes the process held just before, libraries included; None where the system does not say."""


class VariantProcess:
    """Runs one file in a process of its own, from ``__enter__`` to ``__exit__``.

    Args:
        path: ONNX file, ncnn parameter file or checkpoint.
        engine: What runs it.
        threads: CPU threads.
    """

    def __init__(self, path: Path | str, engine: RuntimeLibrary, threads: int) -> None:
        self._child = ChildProcess(partial(_serve, str(path), engine, threads))
        self.loaded: LoadReport

    def __enter__(self) -> Self:
        """Start, and load the file.

        Raises:
            BenchmarkError: It cannot be loaded there.
        """
        self._child.__enter__()
        try:
            self.loaded = self._answer()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def show(self, image: ImageArray) -> None:
        """The image to run on from now on, [N, C, H, W]; the peak of memory counts from here."""
        self._ask("show", image)

    def run(self) -> float:
        """Milliseconds of one run.

        Raises:
            BenchmarkError: It fails on this image, or the process is gone.
        """
        time.sleep(_PAUSE)
        return float(self._ask("run"))

    def peak_memory(self) -> int | None:
        """Largest number of bytes the process held since :meth:`show`; None where the system does not say."""
        peak: int | None = self._ask("memory")
        return peak

    def _ask(self, word: str, value: Any = None) -> Any:
        try:
            self._child.send((word, value))
        except OSError as error:
            raise BenchmarkError("its process is gone") from error
        return self._answer()

    def _answer(self) -> Any:
        try:
            problem, answer = self._child.receive()
        except EOFError as error:
            raise BenchmarkError(f"its process ended with exit code {self._child.exit_code}") from error
        if problem is not None:
            raise BenchmarkError(problem)
        return answer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.__exit__(kind, error, trace)


def _serve(path: str, engine: RuntimeLibrary, threads: int, connection: Connection) -> None:
    """The process: answers (problem, value) to every request until the other side hangs up."""
    from aethernet.benchmark.timing import run_once

    runtime: Any = None
    image: Any = None

    def load(_: Any) -> LoadReport:
        nonlocal runtime
        _import(engine)
        memory = _memory("VmRSS")
        start = time.perf_counter()
        runtime = _open(path, engine, threads).__enter__()
        return LoadReport(runtime=runtime.name, load_ms=(time.perf_counter() - start) * 1000, memory=memory)

    def show(value: Any) -> None:
        nonlocal image
        image = value
        _reset_peak()

    requests: dict[str, Callable[[Any], Any]] = {
        "show": show,
        "run": lambda _: run_once(runtime, image),
        "memory": lambda _: _memory("VmHWM"),
    }
    try:
        connection.send(_attempt(load, None))
        while True:
            word, value = connection.recv()
            connection.send(_attempt(requests[word], value))
    except (EOFError, OSError, KeyboardInterrupt):
        return  # the other side is done


def _attempt(action: Callable[[Any], Any], value: Any) -> tuple[str | None, Any]:
    try:
        return None, action(value)
    except Exception as error:  # noqa: BLE001 (runtimes raise what they like; the other side reports it)
        lines = str(error).strip().splitlines()
        return (lines[0] if lines else type(error).__name__), None


def _import(engine: RuntimeLibrary) -> None:
    """Libraries first, so that they count neither as load time nor as the network's memory."""
    if engine is RuntimeLibrary.PYTORCH:
        import torch  # noqa: F401

        import aethernet.checkpoint  # noqa: F401
    elif engine is RuntimeLibrary.ONNXRUNTIME:
        import onnxruntime  # noqa: F401
    elif engine is RuntimeLibrary.NCNN:
        import ncnn  # noqa: F401
    else:
        import openvino  # noqa: F401


def _open(path: str, engine: RuntimeLibrary, threads: int) -> Runtime:
    if engine is RuntimeLibrary.PYTORCH:
        from aethernet.runtimes.pytorch import TorchRuntime

        return TorchRuntime.from_file(path, threads=threads)
    if engine is RuntimeLibrary.ONNXRUNTIME:
        from aethernet.runtimes.onnxruntime import OnnxRuntime

        return OnnxRuntime(path, threads=threads)
    if engine is RuntimeLibrary.NCNN:
        from aethernet.runtimes.ncnn import NcnnRuntime

        return NcnnRuntime(path, threads=threads)
    from aethernet.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime(path, threads=threads)


def _memory(entry: str) -> int | None:
    """Bytes: ``VmRSS`` now, ``VmHWM`` at most. On Linux getrusage would start at the parent's peak."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:"))
    except (OSError, StopIteration):
        return _peak_elsewhere() if entry == "VmHWM" else None


def _peak_elsewhere() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _reset_peak() -> None:
    """Let the peak count from now; where that is impossible it stays the highest so far."""
    try:
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(descriptor, b"5")
    except OSError:
        pass
    finally:
        os.close(descriptor)
