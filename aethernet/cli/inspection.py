"""``aethernet info`` and ``lint``: what a file or a release is; what is wrong with int8, which programs run ncnn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aethernet.cli.options import AsJson, WeightsKey
from aethernet.cli.output import emit_json, say, show_facts
from aethernet.errors import UsageError

if TYPE_CHECKING:
    from aethernet.checkpoint import LoadedNetwork
    from aethernet.checkpoint.header import CheckpointFacts
    from aethernet.export.lint import LintReport

__all__ = ["info", "inspect_path", "lint", "lint_facts", "lint_lines"]


def info(
    file: Annotated[Path, typer.Argument(help="Checkpoint, ONNX file, ncnn .param file, engine or release folder.")],
    weights: WeightsKey = None,
    as_json: AsJson = False,
) -> None:
    """Say what a file is."""
    show_facts(inspect_path(file, weights), as_json)


def lint(
    file: Annotated[Path, typer.Argument(help="Quantised ONNX file or ncnn .param file, of ours or of another tool.")],
    run: Annotated[
        bool, typer.Option(help="Also count what ONNX Runtime runs in integer kernels (unsigned form).")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check an int8 ONNX file (layers, scales, what really runs in integers), or which programs run an ncnn file."""
    if file.suffix == ".param":
        _lint_ncnn(file, as_json)
        return
    from aethernet.export.lint import lint_onnx

    report = lint_onnx(file, run=run)
    if as_json:
        emit_json(report.to_json())
    else:
        show_facts(lint_facts(report), False)
        for line in lint_lines(report):
            print(line)
    if not report.ok:
        say(f"{file} breaks the rules of int8 files; every error above has to go before it ships")
        raise typer.Exit(1)
    say(f"{file} keeps the rules of int8 files")


def _lint_ncnn(file: Path, as_json: bool) -> None:
    from aethernet.export.ncnn.programs import lint_ncnn

    report = lint_ncnn(file)
    if as_json:
        emit_json(report.to_json())
        return
    show_facts({"layers": ", ".join(f"{count} {kind}" for kind, count in report.kinds.items())}, False)
    for one in report.programs:
        print(one)


def inspect_path(path: Path, weights: str | None = None) -> dict[str, Any]:
    """Facts in the order people look for them; JSON values only.

    Args:
        path: Any file or folder.
        weights: Key of the network to take, where a checkpoint holds several.

    Raises:
        AethernetError: It is none of the kinds known, or no checkpoint although ``weights`` are named.
    """
    if not path.exists():
        raise UsageError(f"expected a file or folder at {path}, found nothing")
    if weights is not None and (path.is_dir() or path.suffix in (".engine", ".onnx", ".param")):
        raise UsageError(f"expected a checkpoint with --weights, found {path}", hint="leave --weights out")
    if path.is_dir():
        return _bundle(path)
    if path.suffix == ".engine":
        from aethernet.cli.engines import record_facts
        from aethernet.engines.identity import read_record

        return record_facts(read_record(path))
    if path.suffix == ".param":
        return _ncnn(path)
    return _onnx(path) if path.suffix == ".onnx" else _checkpoint(path, weights)


def _bundle(path: Path) -> dict[str, Any]:
    from aethernet.release.bundle import open_bundle

    bundle = open_bundle(path)
    manifest = bundle.manifest
    return {
        "kind": "release",
        "name": manifest.name,
        "version": manifest.version,
        "network": f"{manifest.network.family} {manifest.network.preset}",
        "scale": manifest.network.config["scale"],
        "parameters": manifest.network.parameters,
        "forms": {form.precision.value: form.reason or form.status for form in manifest.forms},
        **({} if manifest.ncnn is None else {"ncnn": manifest.ncnn.reason or manifest.ncnn.status}),
        "files": [entry.path for entry in manifest.files],
        "license": manifest.license,
        "identity": manifest.identity,
        "built": bundle.build.created,
    }


def _onnx(path: Path) -> dict[str, Any]:
    import google.protobuf.message
    import onnx

    from aethernet.artifact import file_digest
    from aethernet.graphs.contract import describe_onnx

    try:
        description = describe_onnx(onnx.load(str(path), load_external_data=False))
    except (google.protobuf.message.DecodeError, onnx.checker.ValidationError) as error:
        raise UsageError(f"expected an ONNX file, found something else: {path}") from error
    return {
        "kind": "ONNX",
        "sha256": file_digest(path),
        "inputs": {name: f"{dtype} {list(shape)}" for name, (dtype, shape) in description.inputs.items()},
        "outputs": {name: f"{dtype} {list(shape)}" for name, (dtype, shape) in description.outputs.items()},
        "opset": description.opset,
        "ir_version": description.ir_version,
        "nodes": description.nodes,
        "operators": description.operators,
        "metadata": description.metadata,
    }


def _ncnn(path: Path) -> dict[str, Any]:
    from aethernet.artifact import file_digest
    from aethernet.export.ncnn.programs import fitness
    from aethernet.graphs.ncnn import read_param

    model, weights = read_param(path), path.with_suffix(".bin")
    return {
        "kind": "ncnn",
        "sha256": file_digest(path),
        "weights": f"{weights.name}, {weights.stat().st_size} bytes" if weights.is_file() else None,
        "inputs": model.inputs,
        "outputs": model.outputs,
        "layers": model.kinds,
        "programs": [one.program.name for one in fitness(model) if one.runs],
    }


def _checkpoint(path: Path, weights: str | None) -> dict[str, Any]:
    from aethernet.artifact import file_digest
    from aethernet.checkpoint.header import read_facts

    facts = read_facts(path, weights) or _loaded_facts(path, weights)
    config = facts.config
    return {
        "kind": "checkpoint",
        "sha256": file_digest(path),
        "format": facts.format,
        "network": config.title,
        "form": facts.form,
        "scale": config.scale,
        "channels": config.in_channels,
        "parameters": facts.parameters,
        "stored_as": facts.stored_dtype,
        "quantization_records": facts.quantization_records,
        "int8": facts.int8,
        "receptive_radius": config.receptive_radius,
        "pools_globally": config.pools_globally,
        "config": config.to_json(),
        "notes": list(facts.notes),
    }


def _loaded_facts(path: Path, weights: str | None) -> CheckpointFacts:
    """The same of every file that PyTorch can load."""
    from aethernet.checkpoint import load
    from aethernet.checkpoint.header import CheckpointFacts
    from aethernet.networks.receptive_field import measured
    from aethernet.networks.third_party import ThirdPartyNetwork

    loaded = load(path, weights=weights)
    return CheckpointFacts(
        config=measured(loaded.model) if isinstance(loaded.model, ThirdPartyNetwork) else loaded.config,
        form="nothing to fuse" if loaded.nothing_to_fuse else loaded.form.value,
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        quantization_records=len(loaded.quantization.tensors) if loaded.quantization else 0,
        int8="the network itself" if loaded.int8 else _finetuned(loaded),
        notes=loaded.notes,
        format=loaded.format,
        stored_dtype=loaded.stored_dtype,
    )


def _finetuned(loaded: LoadedNetwork) -> dict[str, Any] | None:
    from aethernet.quantization.structure import convs_of

    if loaded.finetuned is None:
        return None
    layers = sum(1 for _ in convs_of(loaded.finetuned.model))
    return {"fine-tuned beside the float network": f"{layers} layers", **loaded.finetuned.facts.model_dump()}


def lint_facts(report: LintReport) -> dict[str, Any]:
    """What a lint counted, for people."""
    macs = report.macs
    integer = "not counted"
    if macs is not None and macs.share is not None:
        integer = f"{macs.share:.1%} of {macs.quantised_total:,} multiply-accumulates of quantised layers"
    return {
        "form": report.form and report.form.value,
        **{kind: f"{quantised} int8, {plain} float" for kind, (quantised, plain) in report.layers.items()},
        "QuantizeLinear": report.quantize_nodes,
        "DequantizeLinear": report.dequantize_nodes,
        "integer kernels": integer,
        "left in float": list(macs.left_float) if macs is not None and macs.integer is not None else None,
    }


def lint_lines(report: LintReport) -> list[str]:
    """One line per finding, errors first."""
    findings = sorted(report.findings, key=lambda finding: finding.severity.value)  # "error" < "warning"
    width = max((len(finding.rule) for finding in findings), default=0)
    return [f"{finding.severity.value:<7}  {finding.rule:<{width}}  {finding.message}" for finding in findings]
