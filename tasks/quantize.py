"""Quantise: the int8 network and its files, or the reason why there is none."""

from __future__ import annotations

from typing import cast

from pydantic import BaseModel

from aethernet.artifact import Artifact
from aethernet.checkpoint import load, save_pth, save_safetensors
from aethernet.errors import ExportError, QuantizationError
from aethernet.export import OnnxDescription
from aethernet.export.attempts import file_name
from aethernet.export.int8 import export_int8, trace_int8
from aethernet.export.lint import Severity, lint_onnx
from aethernet.images.files import load_image, sample_images
from aethernet.networks import AetherNet
from aethernet.quantization.calibration import Method
from aethernet.quantization.learning import from_finetuning
from aethernet.quantization.post_training import quantize as quantize_network
from aethernet.quantization.structure import convs_of
from aethernet.release.manifest import QuantizationFacts, TensorFacts
from aethernet.release.spec import ExportSpec, QuantizationSpec
from tasks.caching import current_store, stage
from tasks.export import export_config
from tasks.fetch import ValidationImage

__all__ = ["Int8", "Int8Model", "export_quantized", "quantize"]


class Int8(BaseModel):
    """The PyTorch files of the int8 network and how it came about; or why there is none."""

    safetensors: Artifact | None = None
    pth: Artifact | None = None
    facts: QuantizationFacts | None = None
    intended: tuple[str, ...] = ()
    """Weights that every file must hold as int8."""
    reason: str | None = None


class Int8Model(BaseModel):
    """An int8 ONNX file that keeps the rules; or which it breaks."""

    file: Artifact | None = None
    description: OnnxDescription | None = None
    integer_share: float | None = None
    """Share of the quantised layers' multiply-accumulates that ONNX Runtime runs in integers."""
    reason: str | None = None


@stage(host_matters=True)
def quantize(
    checkpoint: Artifact,
    residual_scale: float | None,
    fused: Artifact,
    name: str,
    images: list[ValidationImage],
    spec: QuantizationSpec,
) -> Int8:
    """Write ``NAME_int8.safetensors`` and ``.pth``: of the network that fine-tuning left in the checkpoint, or with
    ranges from the checkpoint's records or from ``images``.
    """
    store = current_store()
    source = load(store.get(checkpoint), residual_scale=residual_scale)
    network = load(store.get(fused)).folded
    channels = network.config.in_channels
    finetuning = None
    try:
        if source.finetuned is not None:
            made = from_finetuning(source.finetuned, cast(AetherNet, network), keep_float=spec.keep_float)
            finetuning = source.finetuned.facts
        else:
            made = quantize_network(
                network,
                images=[load_image(store.get(image.low), channels) for image in images],
                records=source.quantization,
                fallback=[load_image(path, channels) for path in sample_images()],
                method=Method(spec.method),
                keep_float=spec.keep_float,
                seed=spec.seed,
            )
    except QuantizationError as error:
        return Int8(reason=error.reason)
    facts = QuantizationFacts(
        origin="qat" if finetuning else "records" if source.quantization is not None else "pictures",
        method="learned" if finetuning else spec.method,
        images=() if finetuning else tuple(image.name for image in images),
        finetuning=finetuning,
        keep_float=made.keep_float,
        slope=made.slope,
        channel_shift_removed=made.channel_shift_removed,
        tensors=tuple(TensorFacts(name=one.name, scale=one.scale, source=one.source) for one in made.tensors),
    )
    with store.scratch() as folder:
        return Int8(
            safetensors=store.put(save_safetensors(made.model, folder / f"{name}_int8.safetensors")),
            pth=store.put(save_pth(made.model, folder / f"{name}_int8.pth")),
            facts=facts,
            intended=tuple(f"{layer}.weight" for layer, _ in convs_of(made.model)),
        )


@stage()
def export_quantized(int8: Int8, name: str, spec: ExportSpec, metadata: dict[str, str]) -> list[Int8Model]:
    """Write ``NAME_int8.onnx`` and ``NAME_int8_trt.onnx``, and lint them before they go anywhere."""
    assert int8.safetensors is not None
    network, config = load(current_store().get(int8.safetensors)).model, export_config(spec)
    try:
        traced = trace_int8(network, config)
    except ExportError as error:
        return [Int8Model(reason=str(error))]

    def spell(*, tensorrt: bool) -> Int8Model:
        with current_store().scratch() as folder:
            path = folder / file_name(name, f"int8{'_trt' if tensorrt else ''}", spec.static)
            try:
                description = export_int8(network, path, config, metadata, tensorrt=tensorrt, traced=traced)
            except ExportError as error:
                return Int8Model(reason=str(error))
            report = lint_onnx(path, intended=int8.intended)
            broken = [finding.message for finding in report.findings if finding.severity is Severity.ERROR]
            if broken:
                return Int8Model(reason=f"{path.name} fails lint: " + "; ".join(broken[:3]))
            share = report.macs.share if report.macs else None
            return Int8Model(file=current_store().put(path), description=description, integer_share=share)

    return [spell(tensorrt=False), spell(tensorrt=True)]
