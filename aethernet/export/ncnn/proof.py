"""Making the ncnn files of a network, and proving on the spot that they compute what it computes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aethernet.errors import ComparisonError, ExportError
from aethernet.export.ncnn.conversion import convert
from aethernet.export.onnx import NATIVE_OPSET, ExportConfig, trace_to_onnx
from aethernet.graphs.ncnn import NcnnModel, write_ncnn

if TYPE_CHECKING:
    from aethernet.networks.network import Network
    from aethernet.runtimes.protocol import Runtime

__all__ = ["NcnnFiles", "export_ncnn", "require_same"]

_SIZES = ((33, 47), (40, 24))
"""H, W of what a conversion is tried on; neither is what was traced, and both are quick."""
_TOLERANCE = 1e-4
"""Of the output's range, as the gate has it for fp32."""


@dataclass(frozen=True, slots=True)
class NcnnFiles:
    """The two files of a network, which belong together."""

    param: Path
    weights: Path
    kinds: dict[str, int]
    """Count by kind of layer."""


def export_ncnn(model: Network, folder: Path | str, name: str, *, half: bool = True) -> NcnnFiles:
    """Write ``NAME_ncnn.param`` and ``NAME_ncnn.bin`` into ``folder``, blobs ``data`` and ``output``, free sizes.

    The conversion is proven with fp32 weights on the CPU before anything is written; how far fp16 weights and fp16
    arithmetic take the result from the network is for the comparison to measure.

    Args:
        model: As it is to be exported, folded. Not changed.
        folder: Where to write.
        name: Of the release.
        half: Store kernels in fp16, as the programs load them; else in fp32.

    Raises:
        MissingDependencyError: ncnn is not installed.
        ExportError: The network holds what ncnn, or this conversion, has no layer for, or the files compute another
            image.
    """
    if model.config.size.fixed is not None:
        raise ExportError(f"expected a network that takes any size, found one that takes {model.config.size.fixed}")
    converted = convert(trace_to_onnx(model, ExportConfig(opset=NATIVE_OPSET)))
    require_same(converted, model)
    param, weights = (Path(folder) / f"{name}_ncnn{suffix}" for suffix in (".param", ".bin"))
    write_ncnn(converted, param, weights, half=half)
    return NcnnFiles(param=param, weights=weights, kinds=converted.kinds)


def require_same(converted: NcnnModel, model: Network) -> None:
    """Check that ncnn computes in float32 what the network computes, on noise of two sizes.

    Raises:
        MissingDependencyError: ncnn is not installed.
        ExportError: It does not, or cannot run the layers.
    """
    from aethernet.runtimes.ncnn import NcnnRuntime
    from aethernet.runtimes.pytorch import TorchRuntime

    with tempfile.TemporaryDirectory() as folder:
        param = Path(folder) / "network.param"
        write_ncnn(converted, param, param.with_suffix(".bin"), half=False)
        try:
            _require_same(NcnnRuntime(param), TorchRuntime(model), model)
        except ComparisonError as error:
            raise ExportError(f"ncnn cannot run it: {error}") from error


def _require_same(ncnn: Runtime, pytorch: Runtime, model: Network) -> None:
    noise = np.random.default_rng(0)
    with ncnn as found, pytorch as wanted:
        for height, width in (model.config.size.fit(*size) for size in _SIZES):
            image = noise.random((1, model.config.in_channels, height, width), dtype=np.float32)
            output, truth = found.infer(image), wanted.infer(image)
            if output.shape != truth.shape:
                raise ExportError(f"ncnn gives {output.shape} at {height}x{width}, expected {truth.shape}")
            largest = float(np.abs(output - truth).max())
            if not largest <= _TOLERANCE * max(1e-6, float(truth.max() - truth.min())):
                raise ExportError(f"ncnn computes another image at {height}x{width}: {largest:.1e} off")
