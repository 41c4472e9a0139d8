"""fp32 ONNX of any network, as free as it can be: free shapes first, fixed ones where the network bakes its size in.

AetherNets have free shapes and the opset asked for, or fail. Other networks are tried with a newer opset too, then at
one fixed size. A file with free shapes must compute the image at sizes it was not traced at.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aethernet.errors import AethernetError, ExportError
from aethernet.export.onnx import NATIVE_OPSET, ExportConfig, export_fp32, lower, trace_to_onnx, write_fp32
from aethernet.graphs.contract import OnnxDescription

if TYPE_CHECKING:
    from aethernet.networks.network import Network
    from aethernet.networks.third_party import ThirdPartyNetwork

__all__ = ["export", "export_freely", "file_name"]

_SIZES = ((1, 33, 47), (3, 40, 24), (1, 72, 56))
"""N, H, W of what free shapes are tried on; none is what was traced."""
_TOLERANCE = 1e-4
"""Of the output's range, as the gate has it: what a baked-in size does to an image can be as little as 1e-3."""


def file_name(name: str, precision: str, static: tuple[int, int] | None) -> str:
    """``NAME_fp32.onnx``, or ``NAME_256x256_fp32.onnx`` for a file that takes one size (height x width) only."""
    return f"{name}_{static[0]}x{static[1]}_{precision}.onnx" if static else f"{name}_{precision}.onnx"


def export_freely(
    model: Network, folder: Path, name: str, config: ExportConfig, metadata: Mapping[str, str]
) -> tuple[Path, OnnxDescription]:
    """Write the fp32 ONNX file of ``model`` into ``folder``.

    Args:
        model: As it is to be exported, folded.
        folder: Where to write.
        name: Of the release; the file is called by :func:`file_name`.
        config: Preferred opset and shapes; its best size is the one that fixed shapes have.
        metadata: As for :func:`~aethernet.export.onnx.export_fp32`.

    Raises:
        ExportError: No attempt succeeded; the message names the reason of each.
    """

    def paths(static: tuple[int, int] | None) -> Path:
        return folder / file_name(name, "fp32", static)

    description, used = export(model, paths, config, metadata)
    return paths(used.static), description


def export(
    model: Network, path_of: Callable[[tuple[int, int] | None], Path], config: ExportConfig, metadata: Mapping[str, str]
) -> tuple[OnnxDescription, ExportConfig]:
    """Write the fp32 ONNX file of ``model``: what the flow and the single step both do.

    Args:
        model: As it is to be exported, folded.
        path_of: Where to write a file of that fixed (H, W), or of free shapes where it is None.
        config: Preferred opset and shapes; its best size is the one that fixed shapes have.
        metadata: As for :func:`~aethernet.export.onnx.export_fp32`.

    Returns:
        What was written, and with which opset and shapes.

    Raises:
        ExportError: No attempt succeeded; the message names the reason of each.
    """
    from aethernet.networks.third_party import ThirdPartyNetwork

    if not isinstance(model, ThirdPartyNetwork):
        return export_fp32(model, path_of(config.static), config, metadata), config
    reasons: list[str] = []
    for static in dict.fromkeys((config.static, model.config.size.fit(*(config.static or config.shapes.optimum[1:])))):
        free = dataclasses.replace(config, static=static, opset=max(config.opset, NATIVE_OPSET))
        try:
            traced = trace_to_onnx(model, free)
        except ExportError as error:
            reasons.append(_reason(free, error))
            continue
        for opset in dict.fromkeys((config.opset, free.opset)):
            attempt = dataclasses.replace(free, opset=opset)
            path, proto = path_of(static), copy.deepcopy(traced)
            try:
                if opset < NATIVE_OPSET:
                    lower(proto, opset)
                description = write_fp32(model, proto, path, attempt, metadata)
                _require_same(model, path, static)
            except AethernetError as error:
                path.unlink(missing_ok=True)
                reasons.append(_reason(attempt, error))
            else:
                return description, attempt
    raise ExportError(f"{model.config.architecture} cannot be exported; " + "; ".join(reasons))


def _reason(attempt: ExportConfig, error: AethernetError) -> str:
    shape = "free shapes" if attempt.static is None else "fixed shapes"
    root: BaseException = error
    while root.__cause__ is not None:  # the exporter wraps its reasons in advice
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return f"{shape}, opset {attempt.opset}: {(lines or [type(root).__name__])[0][:300]}"


def _require_same(model: ThirdPartyNetwork, path: Path, static: tuple[int, int] | None) -> None:
    from aethernet.runtimes.onnxruntime import OnnxRuntime
    from aethernet.runtimes.pytorch import TorchRuntime

    noise = np.random.default_rng(0)
    sizes = [(1, *static)] if static else _SIZES
    with OnnxRuntime(path) as found, TorchRuntime(model) as wanted:
        for batch, height, width in sizes:
            image = noise.random((batch, model.config.in_channels, height, width), dtype=np.float32)
            try:
                output = found.infer(image)
            except Exception as error:  # ONNX Runtime's exceptions have no common base
                told = str(error).strip().splitlines() or [type(error).__name__]
                raise ExportError(f"ONNX Runtime cannot run it at {batch}x{height}x{width}: {told[0][:200]}") from error
            truth = wanted.infer(image)
            if output.shape != truth.shape:
                raise ExportError(f"it gives {output.shape} at {batch}x{height}x{width}, expected {truth.shape}")
            largest = float(np.abs(output - truth).max())
            if not largest <= _TOLERANCE * max(1e-6, float(truth.max() - truth.min())):
                raise ExportError(f"it computes another image at {batch}x{height}x{width}: {largest:.1e} off")
