"""Exporting networks to ONNX: fp32 from PyTorch, fp16 from the fp32 file, each checked against one contract."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aethernet.errors import UsageError
from aethernet.export.attempts import export
from aethernet.export.half import HalfExport, export_fp16
from aethernet.export.onnx import ExportConfig, ShapeRange, export_fp32
from aethernet.graphs.contract import OnnxDescription, describe_onnx, require_contract
from aethernet.precision import Precision

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray
    from aethernet.networks.network import Network

__all__ = [
    "ExportConfig",
    "HalfExport",
    "OnnxDescription",
    "ShapeRange",
    "describe_onnx",
    "export_fp16",
    "export_fp32",
    "export_onnx",
    "require_contract",
]


def export_onnx(
    model: Network,
    destination: Path | str,
    *,
    precision: Precision | str = Precision.FP32,
    config: ExportConfig | None = None,
    images: Iterable[ImageArray] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> OnnxDescription:
    """Write one ONNX file and check it against the contract.

    Args:
        model: Any form; fuse it first for fewer nodes. Not changed.
        destination: Target file, written in one step.
        precision: fp32 or fp16.
        config: Opset and shapes; default opset 17, free N, H and W. A network of another library that cannot have
            them gets the next newer opset, then a fixed size, as the result says.
        images: [N, C, H, W] float32 in [0, 1]; fp16 measures activations on them (default: the library's own).
        metadata: Further entries for the file's metadata_props.

    Raises:
        UsageError: There is no such ONNX form.
        ExportError: The exporter failed, or the file breaks the contract.
    """
    config, metadata = config or ExportConfig(), metadata or {}
    if Precision(precision) is Precision.FP32:
        return export(model, lambda _: Path(destination), config, metadata)[0]
    if Precision(precision) is not Precision.FP16:
        raise UsageError(f"expected precision fp32 or fp16, found {precision}")
    if images is None:
        from aethernet.images.files import load_image, sample_images

        images = [load_image(path, model.config.in_channels) for path in sample_images()]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "fp32.onnx"
        _, config = export(model, lambda _: source, config, metadata)
        half = export_fp16(
            source,
            destination,
            config,
            metadata,
            images,
            channels=model.config.in_channels,
            out_channels=model.config.out_channels,
            size=model.config.size,
            scale=model.config.scale,
        )
    return half.description
