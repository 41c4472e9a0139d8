"""Export: ONNX files from the fused network, fp32 first and fp16 from it."""

from __future__ import annotations

from pydantic import BaseModel

from aethernet.artifact import Artifact
from aethernet.checkpoint import load
from aethernet.comparison.cases import FULL_SIDE
from aethernet.export import ExportConfig, OnnxDescription, ShapeRange, export_fp16, export_fp32
from aethernet.export.contract import describe_onnx
from aethernet.export.onnx import trace_to_onnx
from aethernet.pictures import load_picture
from aethernet.spec import ExportSpec
from tasks._caching import current_store, stage
from tasks.fetch import Picture

__all__ = ["Exported", "count_unfused_nodes", "export", "export_config", "export_half"]


class Exported(BaseModel):
    """An ONNX file and what it is."""

    file: Artifact
    description: OnnxDescription
    kept_fp32: tuple[str, ...] = ()
    largest_activation: float | None = None


def export_config(spec: ExportSpec) -> ExportConfig:
    """Export settings of a release spec."""
    shapes = ShapeRange(minimum=spec.minimum, optimum=spec.optimum, maximum=spec.maximum)
    return ExportConfig(opset=spec.opset, shapes=shapes)


@stage()
def export(fused: Artifact, name: str, spec: ExportSpec, metadata: dict[str, str]) -> Exported:
    """Write ``NAME_fp32.onnx``."""
    store = current_store()
    with store.scratch() as folder:
        path = folder / f"{name}_fp32.onnx"
        description = export_fp32(load(store.get(fused)).model, path, export_config(spec), metadata)
        return Exported(file=store.put(path), description=description)


@stage()
def count_unfused_nodes(reference: Artifact, spec: ExportSpec) -> int:
    """ONNX nodes the network would have without folding."""
    model = load(current_store().get(reference)).model
    return describe_onnx(trace_to_onnx(model, export_config(spec))).nodes


@stage(host_matters=True)
def export_half(
    fp32: Exported, fused: Artifact, name: str, spec: ExportSpec, metadata: dict[str, str], pictures: list[Picture]
) -> Exported:
    """Write ``NAME_fp16.onnx``; activations are measured on the middle of every validation picture."""
    store = current_store()
    config = load(store.get(fused)).config
    half = FULL_SIDE // 4
    middles = (
        picture[:, :, max(0, picture.shape[2] // 2 - half) :, max(0, picture.shape[3] // 2 - half) :][
            :, :, : 2 * half, : 2 * half
        ]
        for picture in (load_picture(store.get(item.low), config.in_channels) for item in pictures)
    )
    with store.scratch() as folder:
        path = folder / f"{name}_fp16.onnx"
        result = export_fp16(
            store.get(fp32.file),
            path,
            export_config(spec),
            metadata,
            middles,
            channels=config.in_channels,
            scale=config.scale,
        )
        return Exported(
            file=store.put(path),
            description=result.description,
            kept_fp32=result.kept_fp32,
            largest_activation=result.largest_activation,
        )
