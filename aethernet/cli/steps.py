"""The single steps behind ``aethernet fuse``, ``export`` and ``compare``, and what several commands share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aethernet.errors import BundleError, GateError, UsageError
from aethernet.precision import Precision

if TYPE_CHECKING:
    from aethernet.checkpoint import LoadedNetwork
    from aethernet.export import ExportConfig, OnnxDescription
    from aethernet.images.files import ImageArray
    from aethernet.networks.network import Network
    from aethernet.release.bundle import Bundle

__all__ = [
    "case_of_size",
    "compare_bundle",
    "export_file",
    "float_network",
    "fuse_file",
    "images_of",
    "sizes_of",
    "whole_bundle",
]

_DEFAULT_ATOL = {Precision.FP32: 1e-4, Precision.FP16: 8e-3}


def fuse_file(source: Path, destination: Path, *, half: bool, residual_scale: float | None) -> dict[str, Any]:
    """Fuse a checkpoint file; returns facts about the result."""
    import torch

    from aethernet.artifact import Artifact
    from aethernet.checkpoint import save_pth, save_safetensors
    from aethernet.networks.fusion import fuse

    writers = {".safetensors": save_safetensors, ".pth": save_pth}
    if destination.suffix not in writers:
        raise UsageError(f"expected an output called .safetensors or .pth, found {destination.name}")
    loaded = float_network(source, residual_scale)
    fused = fuse(loaded.model)
    writers[destination.suffix](fused, destination, dtype=torch.float16 if half else None)
    artifact = Artifact.of(destination)
    return {
        "file": str(destination),
        "sha256": artifact.sha256,
        "size": artifact.size,
        "arrived": loaded.form.value,
        "parameters_before": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "parameters": sum(parameter.numel() for parameter in fused.parameters()),
        "notes": [*loaded.notes, *(["nothing to fuse"] if loaded.nothing_to_fuse else [])],
    }


def float_network(source: Path, residual_scale: float | None) -> LoadedNetwork:
    """The network of a checkpoint file that can be folded and exported.

    Raises:
        UsageError: It holds the int8 form.
    """
    from aethernet.checkpoint import load

    loaded = load(source, residual_scale=residual_scale)
    if loaded.int8:
        raise UsageError(
            f"expected a float network, found the int8 form in {source.name}",
            hint="start from the fp32 or notfused file beside it",
        )
    return loaded


def export_file(
    source: Path,
    destination: Path,
    *,
    precision: str,
    opset: int,
    static: str | None,
    shapes: Mapping[str, str],
    fold: bool,
    images: Path | None,
    tolerances: tuple[float | None, float] | None,
    residual_scale: float | None,
) -> dict[str, Any]:
    """Export a checkpoint file; returns facts about the ONNX file and, with tolerances, how it compares."""
    from aethernet.artifact import Artifact
    from aethernet.export import ExportConfig, ShapeRange, export_onnx

    if precision not in _DEFAULT_ATOL:
        raise UsageError(f"expected --precision fp32 or fp16, found {precision}")
    form = Precision(precision)
    fixed = _numbers(static, 2, "--static HxW") if static else None
    ranges = {name: _numbers(text, 3, f"{name} as NxHxW") for name, text in shapes.items()}
    config = ExportConfig(opset=opset, static=fixed, shapes=ShapeRange(**ranges))  # type: ignore[arg-type]
    loaded = float_network(source, residual_scale)
    named_images = images_of(images)
    cases = _cases(named_images, loaded.config.in_channels, fixed)  # type: ignore[arg-type]
    description = export_onnx(
        loaded.folded if fold else loaded.model,
        destination,
        precision=form,
        config=config,
        images=[case.input for case in cases if case.window is not None or fixed],
        metadata={"network": loaded.config.descriptor.architecture, "source_sha256": Artifact.of(source).sha256},
    )
    facts: dict[str, Any] = {
        "file": str(destination),
        "size": destination.stat().st_size,
        "opset": description.opset,
        "ir_version": description.ir_version,
        "nodes": description.nodes,
        "inputs": {name: f"{dtype} {list(shape)}" for name, (dtype, shape) in description.inputs.items()},
        "outputs": {name: f"{dtype} {list(shape)}" for name, (dtype, shape) in description.outputs.items()},
        "notes": [*loaded.notes, *_shortfall(config, description)],
    }
    if tolerances is not None:
        atol = tolerances[0] if tolerances[0] is not None else _DEFAULT_ATOL[form]
        facts["verified"] = _verified(loaded.model, destination, cases, atol, tolerances[1])
    return facts


def _shortfall(config: ExportConfig, description: OnnxDescription) -> list[str]:
    """What the network could not have of what was asked for."""
    notes = []
    if description.opset != config.opset:
        notes.append(
            f"this network cannot be written at opset {config.opset}: the file is at opset {description.opset}"
        )
    _, shape = next(iter(description.inputs.values()))
    if config.static is None and not any(isinstance(side, str) for side in shape):
        notes.append(f"this network cannot have free shapes: the file takes {list(shape)} only")
    return notes


def _verified(model: Network, path: Path, cases: list[Any], atol: float, rtol: float) -> dict[str, Any]:
    import numpy as np

    from aethernet.comparison import outputs_of
    from aethernet.runtimes.opening import open_runtime
    from aethernet.runtimes.pytorch import TorchRuntime

    wanted, found = outputs_of(TorchRuntime(model), cases), outputs_of(open_runtime(path), cases)
    close = {name: bool(np.allclose(found[name], wanted[name], rtol=rtol, atol=atol)) for name in wanted}
    largest = max(float(np.abs(found[name] - wanted[name]).max()) for name in wanted)
    failed = [name for name, passes in close.items() if not passes]
    return {
        "passes": not failed,
        "inputs": len(close),
        "largest_difference": largest,
        "atol": atol,
        "rtol": rtol,
        "failed": failed,
    }


def compare_bundle(
    path: Path, *, images: Path | None, hr: Path | None, write: Path | None
) -> tuple[dict[str, Any], str, bool]:
    """Measure a release again.

    Returns:
        The numbers as JSON values, the table, and whether every form keeps the release's limits.
    """
    from aethernet.comparison import judge, measurement_table
    from aethernet.images.files import list_images, pair_by_stem, save_image
    from aethernet.release.again import compare_again

    bundle = whole_bundle(path)
    manifest, named_images = bundle.manifest, images_of(images)
    again = compare_again(
        bundle, named_images, pair_by_stem(list(named_images.values()), list_images(hr)) if hr is not None else {}
    )
    measurements, quality = again.measurements, again.quality
    if write is not None:
        for name, outputs in again.outputs.items():
            for case in again.cases:
                if case.window is not None and case.name in outputs:
                    save_image(outputs[case.name], write / case.image / f"{name}.png")
    released = [form.precision for form in manifest.forms if form.status == "released"]
    try:
        judge(measurements, quality, manifest.limits, required=released)
        passes = True
    except GateError:
        passes = False
    result = {
        "passes": passes,
        "measurements": [item.model_dump(mode="json") for item in measurements],
        "quality": [item.model_dump(mode="json") for item in quality],
    }
    return result, measurement_table(measurements, quality, manifest.limits), passes


def whole_bundle(path: Path) -> Bundle:
    """A release folder whose every file is as released.

    Raises:
        BundleError: It is not.
    """
    from aethernet.release.bundle import open_bundle
    from aethernet.release.verification import verify_bundle

    broken = verify_bundle(path, run=False).problems
    if broken:
        raise BundleError(f"{path} is not what was released: {'; '.join(broken)}")
    return open_bundle(path)


def images_of(images: Path | None) -> dict[str, Path]:
    """Name -> image in a folder, or the library's own two."""
    from aethernet.images.files import list_images, sample_images

    return {path.stem: path for path in (sample_images() if images is None else list_images(images))}


def _cases(images: Mapping[str, Path], channels: int, static: tuple[int, int] | None) -> list[Any]:
    from aethernet.comparison import build_cases

    return build_cases(images, channels, static=static)


def case_of_size(images: Mapping[str, Path], channels: int, size: tuple[int, int]) -> ImageArray:
    """The first image cut, or continued by mirroring, to (H, W) pixels: [1, C, H, W]."""
    name = next(iter(images))
    image: ImageArray = _cases({name: images[name]}, channels, size)[0].input
    return image


def sizes_of(text: str) -> list[tuple[int, int]]:
    """``256x256,720x1280`` -> (H, W) of each."""
    sizes = [_numbers(part.strip(), 2, "sizes HxW, separated by commas") for part in text.split(",")]
    if any(min(size) < 1 for size in sizes):
        raise UsageError(f"expected positive sizes, found '{text}'")
    return [(height, width) for height, width in dict.fromkeys(sizes)]


def _numbers(text: str, count: int, what: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d{1,6}(x\d{1,6})" + "{" + str(count - 1) + "}", text):
        raise UsageError(f"expected {what}, such as {'x'.join(['64'] * count)}, found '{text}'")
    return tuple(int(part) for part in text.split("x"))
