"""OpenVINO on the CPU."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from aethernet.errors import ComparisonError, MissingDependencyError
from aethernet.networks.sizes import SIZE_KEY, SizeRequirements, fitted, recorded_size

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["OpenVinoRuntime"]


class OpenVinoRuntime:
    """Runs an ONNX file with one input and one output; what is not int8 in the file is computed in float32."""

    name = "openvino-cpu"

    def __init__(self, path: Path | str, *, threads: int = 0) -> None:
        self.path = Path(path)
        self.threads = threads
        self._model: Any = None
        self._dtype: Any = np.float32
        self._size, self._scale = SizeRequirements(), 1

    def __enter__(self) -> Self:
        """Load the network.

        Raises:
            MissingDependencyError: OpenVINO is not installed.
            ComparisonError: It cannot load the file.
        """
        try:
            import openvino
        except ImportError as error:
            raise MissingDependencyError("openvino", extra="openvino") from error
        # Left alone, it computes in bfloat16 on processors that have it, and the numbers depend on the machine.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if self.threads:
            settings["INFERENCE_NUM_THREADS"] = self.threads
        try:
            self._model = openvino.Core().compile_model(str(self.path), "CPU", settings)
        except RuntimeError as error:
            raise ComparisonError(f"OpenVINO cannot load {self.path.name}: {error}") from error
        self._dtype = self._model.input(0).element_type.to_dtype()
        self._size, self._scale = recorded_size(_metadata(self.path))
        return self

    def infer(self, picture: ImageArray) -> ImageArray:
        return fitted(picture, self._size, self._scale, self._run)

    def _run(self, picture: ImageArray) -> ImageArray:
        output = self._model([np.ascontiguousarray(picture, dtype=self._dtype)])[0]
        result: ImageArray = output.astype(np.float32, copy=False)
        return result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model = None


def _metadata(path: Path) -> dict[str, str]:
    """What a file says about sizes; most say nothing, and are not read twice."""
    content = path.read_bytes()
    if SIZE_KEY.encode() not in content:
        return {}
    import onnx

    return {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
