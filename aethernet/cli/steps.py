"""``aethernet fuse`` and ``export``: from a checkpoint to one other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aethernet.cli.inputs import cases_of, float_network, images_of, numbers_of
from aethernet.cli.options import AsJson, ResidualScale, WeightsKey
from aethernet.cli.output import say, show_facts
from aethernet.errors import UsageError
from aethernet.precision import Precision

if TYPE_CHECKING:
    from aethernet.export import ExportConfig, OnnxDescription
    from aethernet.networks.network import Network

__all__ = ["export", "export_file", "fuse", "fuse_file"]

_DEFAULT_ATOL = {Precision.FP32: 1e-4, Precision.FP16: 8e-3}


def fuse(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Checkpoint of any form.")],
    destination: Annotated[
        Path, typer.Argument(metavar="OUT", help=".safetensors (with config) or .pth (plain tensors).")
    ],
    half: Annotated[bool, typer.Option("--half", help="Store the weights as fp16.")] = False,
    residual_scale: ResidualScale = None,
    weights: WeightsKey = None,
    as_json: AsJson = False,
) -> None:
    """Fold everything linear into the convolutions; a fused network comes back equal."""
    show_facts(fuse_file(source, destination, half=half, residual_scale=residual_scale, weights=weights), as_json)
    say(f"wrote {destination}; next: aethernet export {destination} {destination.with_suffix('.onnx')} --verify")


def export(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Checkpoint of any form.")],
    destination: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The ONNX file to write.")],
    precision: Annotated[str, typer.Option(help="fp32 or fp16.")] = "fp32",
    opset: Annotated[int, typer.Option(help="17 to 21.")] = 17,
    static: Annotated[
        str | None, typer.Option(metavar="HxW", help="Fixed input size, batch 1 (default: all axes free).")
    ] = None,
    minimum: Annotated[
        str, typer.Option("--min", metavar="NxHxW", help="Smallest input, recorded for engines.")
    ] = "1x16x16",
    optimum: Annotated[
        str, typer.Option("--opt", metavar="NxHxW", help="Best input, recorded for engines.")
    ] = "1x256x256",
    maximum: Annotated[
        str, typer.Option("--max", metavar="NxHxW", help="Largest input, recorded for engines.")
    ] = "4x1080x1920",
    fold: Annotated[bool, typer.Option(help="Fuse before exporting.")] = True,
    images: Annotated[Path | None, typer.Option(help="Images to measure on (default: the library's own two).")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run the file beside PyTorch; exit 1 when they differ.")
    ] = False,
    atol: Annotated[
        float | None, typer.Option(help="With --verify: absolute tolerance (default 1e-4, fp16 8e-3).")
    ] = None,
    rtol: Annotated[float, typer.Option(help="With --verify: relative tolerance.")] = 0.0,
    residual_scale: ResidualScale = None,
    weights: WeightsKey = None,
    as_json: AsJson = False,
) -> None:
    """Write one ONNX file and check it against the contract."""
    shapes = {"minimum": minimum, "optimum": optimum, "maximum": maximum}
    result = export_file(
        source,
        destination,
        precision=precision,
        opset=opset,
        static=static,
        shapes=shapes,
        fold=fold,
        images=images,
        tolerances=(atol, rtol) if verify else None,
        residual_scale=residual_scale,
        weights=weights,
    )
    show_facts(result, as_json)
    if verify and not result["verified"]["passes"]:
        say("the file does not compute the same image within the tolerances; it was kept for study")
        raise typer.Exit(1)


def fuse_file(
    source: Path, destination: Path, *, half: bool, residual_scale: float | None, weights: str | None = None
) -> dict[str, Any]:
    """Fuse a checkpoint file; returns facts about the result."""
    import torch

    from aethernet.artifact import Artifact
    from aethernet.checkpoint import save_pth, save_safetensors
    from aethernet.networks.fusion import fuse as fold

    writers = {".safetensors": save_safetensors, ".pth": save_pth}
    if destination.suffix not in writers:
        raise UsageError(f"expected an output called .safetensors or .pth, found {destination.name}")
    loaded = float_network(source, residual_scale, weights)
    fused = fold(loaded.model)
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
    weights: str | None = None,
) -> dict[str, Any]:
    """Export a checkpoint file; returns facts about the ONNX file and, with tolerances, how it compares."""
    from aethernet.artifact import Artifact
    from aethernet.export import ExportConfig, ShapeRange, export_onnx

    if precision not in _DEFAULT_ATOL:
        raise UsageError(f"expected --precision fp32 or fp16, found {precision}")
    form = Precision(precision)
    fixed = numbers_of(static, 2, "--static HxW") if static else None
    ranges = {name: numbers_of(text, 3, f"{name} as NxHxW") for name, text in shapes.items()}
    config = ExportConfig(opset=opset, static=fixed, shapes=ShapeRange(**ranges))  # type: ignore[arg-type]
    loaded = float_network(source, residual_scale, weights)
    named_images = images_of(images)
    cases = cases_of(named_images, loaded.config.in_channels, fixed)  # type: ignore[arg-type]
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
