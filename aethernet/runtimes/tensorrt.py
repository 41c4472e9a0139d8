"""TensorRT engines, run in a child process; an engine that does not fit this machine is refused before it is loaded."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aethernet.engines.backends import find_gpu
from aethernet.engines.identity import check_engine
from aethernet.engines.process import run_worker, start_worker
from aethernet.engines.worker import receive, send
from aethernet.errors import BuilderError, EngineError
from aethernet.processes import end_process
from aethernet.runtimes.protocol import ShapeLimits

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["TensorRtRuntime"]

_TIMING_TIMEOUT = 600.0


class TensorRtRuntime:
    """Runs an ``.engine`` file whose identity lies beside it."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.record = check_engine(self.path).record
        self.name = f"{self.record.identity.backend.value}-gpu"
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    @property
    def limits(self) -> ShapeLimits:
        """Sizes of the profile that takes the largest input."""
        largest = max(self.record.identity.profiles, key=lambda one: one.maximum[1] * one.maximum[2])
        return ShapeLimits(smallest=largest.minimum[1:], largest=largest.maximum[1:])

    def __enter__(self) -> Self:
        _require_gpu()
        self._folder = Path(tempfile.mkdtemp(prefix="aethernet-engine-"))
        self._process = start_worker(self._request("serve"), self._folder, talks=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self._fail("could not load the engine")
        return self

    def _request(self, task: str, **more: Any) -> dict[str, Any]:
        identity = self.record.identity
        profiles = [profile.model_dump(mode="json") for profile in identity.profiles]
        return {
            "task": task,
            "backend": identity.backend.value,
            "engine": str(self.path),
            "profiles": profiles,
            **more,
        }

    def _fail(self, what: str) -> None:
        assert self._folder is not None
        log = (self._folder / "log").read_text(encoding="utf-8", errors="replace").strip()
        self.__exit__(None, None, None)
        last = log.splitlines()[-1] if log else "it said nothing"
        raise BuilderError(f"{self.record.identity.backend.label} {what}: {last}", log=log)

    def infer(self, image: ImageArray) -> ImageArray:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            send(self._process.stdin, image)
            answer: ImageArray | None = receive(self._process.stdout)
        except RuntimeError as error:
            raise EngineError(f"{self.path.name} could not run {'x'.join(map(str, image.shape))}: {error}") from error
        except (OSError, EOFError):
            answer = None
        if answer is None:
            self._fail("crashed while running")
            raise AssertionError("unreachable")
        return answer

    def time(self, shape: tuple[int, int, int, int], *, warm_up: int = 10, runs: int = 50) -> dict[str, Any]:
        """Latencies in milliseconds by CUDA events, and images per second, at one shape with data on the GPU.

        Raises:
            EngineError: There is no GPU.
            BuilderError: The engine could not be run.
        """
        _require_gpu()
        with tempfile.TemporaryDirectory(prefix="aethernet-engine-") as folder:
            request = self._request("time", shape=shape, warm_up=warm_up, runs=runs)
            return run_worker(request, Path(folder), timeout=_TIMING_TIMEOUT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    if stream is not None:
                        stream.close()
            end_process(self._process)
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _require_gpu() -> None:
    if find_gpu() is None:
        raise EngineError(
            "expected an NVIDIA GPU to run a TensorRT engine on, found none",
            hint="use the ONNX file of the same release, which runs on a CPU",
        )
