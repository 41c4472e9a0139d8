"""Export: ONNX files from the fused network, fp32 first and fp16 from it."""

from __future__ import annotations

from pydantic import BaseModel

from aethernet.artifact import Artifact
from aethernet.checkpoint import load
from aethernet.comparison.cases import FULL_SIDE
from aethernet.errors import ExportError
from aethernet.export import ExportConfig, OnnxDescription, ShapeRange, export_fp16
from aethernet.export.attempts import export_freely, file_name
from aethernet.images.files import load_image
from aethernet.release.spec import ExportSpec
from tasks.caching import current_store, stage
from tasks.fetch import ValidationImage

__all__ = ["Exported", "Half", "export", "export_config", "export_half", "resolved_export"]


class Exported(BaseModel):
    """An ONNX file and what it is."""

    file: Artifact
    description: OnnxDescription
    kept_fp32: tuple[str, ...] = ()
    largest_activation: float | None = None

    @property
    def static(self) -> tuple[int, int] | None:
        """The one (H, W) it takes, where it takes one only."""
        ((_, shape),) = self.description.inputs.values()
        height, width = shape[2:]
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None


class Half(BaseModel):
    """The fp16 file, or why there is none."""

    model: Exported | None = None
    reason: str | None = None


def export_config(spec: ExportSpec) -> ExportConfig:
    """Export settings of a release spec."""
    shapes = ShapeRange(minimum=spec.minimum, optimum=spec.optimum, maximum=spec.maximum)
    return ExportConfig(opset=spec.opset, static=spec.static, shapes=shapes)


def resolved_export(spec: ExportSpec, fp32: Exported) -> ExportSpec:
    """The spec with what the fp32 file turned out to need, for all other files."""
    return spec.model_copy(update={"opset": fp32.description.opset, "static": fp32.static})


@stage()
def export(fused: Artifact, name: str, spec: ExportSpec, metadata: dict[str, str]) -> Exported:
    """Write ``NAME_fp32.onnx``."""
    store = current_store()
    with store.scratch() as folder:
        path, description = export_freely(load(store.get(fused)).folded, folder, name, export_config(spec), metadata)
        return Exported(file=store.put(path), description=description)


@stage(host_matters=True)
def export_half(
    fp32: Exported,
    fused: Artifact,
    name: str,
    spec: ExportSpec,
    metadata: dict[str, str],
    images: list[ValidationImage],
) -> Half:
    """Write ``NAME_fp16.onnx``; activations are measured on the middle of every validation image."""
    store = current_store()
    config = load(store.get(fused)).config
    half = FULL_SIDE // 4
    tall, wide = spec.static or (2 * half, 2 * half)
    middles = (
        image[:, :, max(0, image.shape[2] // 2 - half) :, max(0, image.shape[3] // 2 - half) :][
            :, :, : min(2 * half, tall), : min(2 * half, wide)
        ]
        for image in (load_image(store.get(item.low), config.in_channels) for item in images)
    )
    with store.scratch() as folder:
        path = folder / file_name(name, "fp16", spec.static)
        try:
            result = export_fp16(
                store.get(fp32.file),
                path,
                export_config(spec),
                metadata,
                middles,
                channels=config.in_channels,
                out_channels=config.out_channels,
                size=config.size,
                scale=config.scale,
            )
        except ExportError as error:
            return Half(reason=str(error))
        made = Exported(
            file=store.put(path),
            description=result.description,
            kept_fp32=result.kept_fp32,
            largest_activation=result.largest_activation,
        )
        return Half(model=made)
