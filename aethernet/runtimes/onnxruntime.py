"""ONNX Runtime, on the CPU unless told otherwise."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from aethernet.errors import ComparisonError
from aethernet.networks.sizes import SizeRequirements, fitted, recorded_size

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["OnnxRuntime"]

_NAMES = {
    "CPUExecutionProvider": "onnxruntime-cpu",
    "CUDAExecutionProvider": "onnxruntime-cuda",
    "DmlExecutionProvider": "onnxruntime-directml",
}


class OnnxRuntime:
    """Runs an ONNX file with one input and one output, ours or another tool's."""

    def __init__(self, path: Path | str, *, threads: int = 0, provider: str = "CPUExecutionProvider") -> None:
        self.path = Path(path)
        self.threads = threads
        self.provider = provider
        self.name = _NAMES[provider]
        self._session: Any = None
        self._dtype: Any = np.float32
        self._input = "input"
        self._size, self._scale = SizeRequirements(), 1

    def __enter__(self) -> Self:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        # A plan of memory for every input size doubles what a session holds (measured: 6.3 and 3.2 kB for each pixel of
        # the sample network) and makes it no faster; DirectML allows none.
        options.enable_mem_pattern = False
        if self.provider == "DmlExecutionProvider":  # it asks for this too
            options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        try:
            if _has_half_precision_grid(self.path):
                # Optimised, such a file (made for TensorRT) does not load, or gives another image: measured with
                # ONNX Runtime 1.31 on generation 2, 36 dB to what the file says with basic optimisation, 56 dB without.
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            self._session = self._open(options)
        except Exception as error:
            raise ComparisonError(f"ONNX Runtime cannot load {self.path.name}: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if (len(inputs), len(outputs)) != (1, 1):
            raise ComparisonError(
                f"expected one input and one output in {self.path.name}, found {len(inputs)} and {len(outputs)}"
            )
        self._input = inputs[0].name
        entries = self._session.get_modelmeta().custom_metadata_map
        self._size, self._scale = recorded_size(entries)
        self._dtype = np.float16 if inputs[0].type == "tensor(float16)" else np.float32
        return self

    def _open(self, options: Any) -> Any:
        import onnxruntime

        # TF32 is the provider's default: fp32 would be rounded to 10 bits of mantissa.
        settings = {"use_tf32": "0"} if self.provider == "CUDAExecutionProvider" else {}
        session = onnxruntime.InferenceSession(str(self.path), options, providers=[(self.provider, settings)])
        if self.provider not in session.get_providers():  # it falls back to the CPU with no more than a log line
            raise ComparisonError(f"expected {self.provider}, found that ONNX Runtime cannot start it here")
        return session

    def infer(self, image: ImageArray) -> ImageArray:
        return fitted(image, self._size, self._scale, self._run)

    def _run(self, image: ImageArray) -> ImageArray:
        (output,) = self._session.run(None, {self._input: image.astype(self._dtype, copy=False)})
        result: ImageArray = output.astype(np.float32, copy=False)
        return result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None


def _has_half_precision_grid(path: Path) -> bool:
    """Whether a file quantises with fp16 scales."""
    content = path.read_bytes()
    if b"QuantizeLinear" not in content:
        return False  # most files: no second parse, and onnx need not be imported
    import onnx

    graph = onnx.load_from_string(content).graph
    scales = {node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}
    half = onnx.TensorProto.FLOAT16
    return any(tensor.name in scales and tensor.data_type == half for tensor in graph.initializer)
