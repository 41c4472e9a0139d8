"""TensorRT and TensorRT-RTX, through Polygraphy's runner. Needs an NVIDIA GPU.

An engine computes inputs of the sizes it was built for only; :attr:`TensorRtRuntime.limits` says which.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from aethernet.errors import MissingDependencyError, UpscaleError
from aethernet.runtimes import ShapeLimits

if TYPE_CHECKING:
    from aethernet.pictures import Picture

__all__ = ["TensorRtRuntime"]

_PROFILE = ((16, 16), (256, 256), (1080, 1920))
"""Height and width that an engine built from an ONNX file on the spot takes: least, best, most."""


class TensorRtRuntime:
    """Runs an engine file, or an ONNX file after building an engine from it (minutes)."""

    def __init__(self, path: Path | str, *, rtx: bool = False) -> None:
        self.path = Path(path)
        self.rtx = rtx
        self.name = "tensorrt-rtx" if rtx else "tensorrt"
        self.limits: ShapeLimits | None = None
        self._runner: Any = None
        self._dtype: Any = np.float32

    def __enter__(self) -> Self:
        """Load or build the engine.

        Raises:
            MissingDependencyError: TensorRT or Polygraphy is not installed.
            UpscaleError: The engine was made by another version or for another GPU.
        """
        # Polygraphy reads this when it is imported first, and drives one of the two libraries from then on.
        os.environ.setdefault("POLYGRAPHY_USE_TENSORRT_RTX", "1" if self.rtx else "0")
        try:
            from polygraphy.backend import trt
        except ImportError as error:
            raise MissingDependencyError(self.name.replace("-", "_"), extra=self.name) from error
        try:
            engine = self._engine(trt)
            minimum, _, maximum = engine.get_tensor_profile_shape("input", 0)
            self._runner = trt.TrtRunner(engine).__enter__()
        except Exception as error:  # Polygraphy and TensorRT raise kinds of their own
            raise UpscaleError(
                f"expected an engine for this GPU and TensorRT, found that {self.path.name} does not load: {error}",
                hint="build it again on this machine, or choose another --runtime",
            ) from error
        self.limits = ShapeLimits(smallest=tuple(minimum)[2:], largest=tuple(maximum)[2:])
        self._dtype = self._runner.get_input_metadata()["input"].dtype
        return self

    def _engine(self, trt: Any) -> Any:
        if self.path.suffix == ".engine":
            return trt.EngineFromBytes(self.path.read_bytes)()
        profile = trt.Profile()
        profile.add("input", *((1, 3, *sides) for sides in _PROFILE))
        return trt.EngineFromNetwork(trt.NetworkFromOnnxPath(str(self.path)), trt.CreateConfig(profiles=[profile]))()

    def infer(self, picture: Picture) -> Picture:
        limits, (height, width) = self.limits, picture.shape[2:]
        if limits and not all(
            least <= side <= most
            for least, side, most in zip(limits.smallest, (height, width), limits.largest, strict=True)
        ):
            raise UpscaleError(
                f"expected an input of {limits.smallest[1]}x{limits.smallest[0]} to {limits.largest[1]}x"
                f"{limits.largest[0]} pixels, as the engine was built for, found {width}x{height}"
            )
        given = np.ascontiguousarray(picture, dtype=np.dtype(str(self._dtype)))
        outputs = self._runner.infer({"input": given}, copy_outputs_to_host=True)
        result: Picture = np.asarray(outputs["output"]).astype(np.float32)  # Polygraphy uses its buffer again
        return result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            self._runner.__exit__(kind, error, trace)
            self._runner = None
