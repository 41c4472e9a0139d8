"""``aethernet engine``: build engines from a release or an ONNX file, say what one is, check whether it fits here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aethernet.cli.options import AsJson, split_list
from aethernet.cli.output import emit_json, say, show_facts
from aethernet.errors import AethernetError, EngineError, UsageError
from aethernet.precision import Precision

if TYPE_CHECKING:
    from aethernet.engines.identity import EngineRecord

__all__ = ["build", "build_engines", "check", "check_file", "info", "record_facts"]


def build(
    source: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Release folder, or one ONNX file of ours.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for engines and their identities.")] = Path(
        "engines"
    ),
    precisions: Annotated[
        str | None, typer.Option(help="Forms of the release, such as fp16,int8 (default: all it has).")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="tensorrt_rtx (needs no GPU) or tensorrt (tuned on the GPU here).")
    ] = "tensorrt_rtx",
    profile: Annotated[
        list[str] | None,
        typer.Option(help="tile (default), image, video_720p, video_1080p, NxHxW or MIN:OPT:MAX; may be repeated."),
    ] = None,
    capabilities: Annotated[
        str | None, typer.Option(help="Compute capabilities for tensorrt_rtx, such as 7.5,8.9 (default: all it knows).")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds one engine may take.")] = 1800,
    memory: Annotated[
        float | None, typer.Option(help="GiB of GPU memory that must be enough (default: the card's).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build engines; precision is what the ONNX file says."""
    made, failed = build_engines(
        source,
        output,
        precisions=precisions,
        backend=backend,
        profiles=profile or ["tile"],
        capabilities=capabilities,
        timeout=timeout,
        memory=memory,
    )
    if as_json:
        emit_json({"engines": made, "failed": failed})
    for facts in made:
        if not as_json:
            print(facts["file"])
        for finding in facts["findings"]:
            say(f"{Path(facts['file']).name}: {finding}")
    for line in failed:
        say(f"not built: {line}")
    if failed:
        raise typer.Exit(1)
    say(f"next: aethernet engine check {made[0]['file']}")


def info(
    file: Annotated[Path, typer.Argument(metavar="FILE.engine", help="Engine, its identity beside it.")],
    as_json: AsJson = False,
) -> None:
    """Say what an engine is tied to and what was counted in it."""
    from aethernet.engines.identity import read_record

    show_facts(record_facts(read_record(file)), as_json)


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE.engine", help="Engine, its identity beside it.")],
    onnx: Annotated[
        Path | None,
        typer.Option(help="ONNX file it must belong to (default: the one beside it or in the folder above)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find out whether an engine is whole and fits this machine, without loading it; exit 1 when not."""
    facts = check_file(file, onnx)
    if as_json:
        emit_json(facts)
    else:
        print(f"{file}: {facts['precision']} for {facts['backend']}, whole")
    for note in facts["notes"]:
        say(f"not checked: {note}")


def build_engines(
    source: Path,
    output: Path,
    *,
    precisions: str | None,
    backend: str,
    profiles: list[str],
    capabilities: str | None,
    timeout: float,
    memory: float | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Build an engine of every form and group of cards.

    Returns:
        Facts of every engine, and a line for each that could not be built.
    """
    from aethernet.engines.backends import Backend, parse_capabilities
    from aethernet.engines.builder import build_engine, plan_builds
    from aethernet.engines.identity import engine_name
    from aethernet.engines.profiles import parse_profile

    if backend not in list(Backend):
        raise UsageError(f"expected --backend {' or '.join(Backend)}, found {backend}")
    configs = plan_builds(
        Backend(backend),
        tuple(parse_profile(text) for text in profiles),
        capabilities=parse_capabilities(capabilities) if capabilities else None,
        timeout=timeout,
        memory=None if memory is None else int(memory * 2**30),
    )
    made, failed = [], []
    for onnx in _sources(source, precisions):
        for config in configs:
            targets = config.capabilities or ((config.gpu.capability,) if config.gpu else ())
            destination = output / engine_name(onnx.name, config.backend, targets, config.profiles)
            try:
                built = build_engine(onnx, destination, config)
            except EngineError as error:
                failed.append(f"{destination.name}: {error.reason}")
                continue
            made.append({"file": str(built.engine), **record_facts(built.record), "build_seconds": built.seconds})
    return made, failed


def _sources(source: Path, precisions: str | None) -> list[Path]:
    """The ONNX files engines are built from: the file itself, or a release's that are on TensorRT's grid."""
    from aethernet.release.bundle import open_bundle
    from aethernet.release.verification import verify_bundle

    if source.is_file():
        if precisions is not None:
            raise UsageError(f"expected --precisions with a release folder, found the file {source}")
        return [source]
    wanted = [*Precision] if precisions is None else _precisions(precisions)
    bundle = open_bundle(source)
    if broken := verify_bundle(source, run=False).problems:
        raise AethernetError(f"{source} is not what was released: {'; '.join(broken[:5])}")
    found = {}
    for precision in wanted:
        suffix = "_trt.onnx" if precision is Precision.INT8 else ".onnx"
        entry = bundle.manifest.file("onnx", precision, suffix)
        if entry is not None:
            found[precision] = bundle.path(entry)
    if missing := [one.value for one in wanted if one not in found and precisions is not None]:
        raise UsageError(f"expected forms that the release has, found none of {', '.join(missing)}")
    return list(found.values())


def _precisions(text: str) -> list[Precision]:
    words = split_list(text)
    if unknown := [word for word in words if word not in list(Precision)]:
        raise UsageError(f"expected --precisions of {', '.join(Precision)}, found {', '.join(unknown)}")
    return [Precision(word) for word in words]


def record_facts(record: EngineRecord) -> dict[str, Any]:
    """An engine's identity and counts in the order people look for them; JSON values only."""
    identity = record.identity
    return {
        "kind": "TensorRT engine",
        "backend": f"{identity.backend.label} {identity.version}",
        "runs_on": list(identity.capabilities or ()) or (identity.gpu and identity.gpu.model_dump(mode="json")),
        "precision": identity.precision.value,
        "profiles": {
            one.name: [list(shape) for shape in (one.minimum, one.optimum, one.maximum)] for one in identity.profiles
        },
        "size": identity.size,
        "sha256": identity.sha256,
        "built_from": identity.onnx,
        "onnx_sha256": identity.onnx_sha256,
        "network": record.network.model_dump(mode="json"),
        "plan": record.plan.model_dump(mode="json") if record.plan else None,
        "findings": list(record.findings),
        "messages": [
            f"{one.severity}: {one.text}" + (f" ({one.count} times)" if one.count > 1 else "")
            for one in record.messages
        ],
        "adjustments": list(identity.adjustments),
        "memory": record.memory,
        "flags": identity.flags,
        "system": identity.system,
        "gpu": identity.gpu and identity.gpu.model_dump(mode="json"),
        "build_seconds": identity.build_seconds,
        "timing_cache_sha256": identity.timing_cache_sha256,
    }


def check_file(engine: Path, onnx: Path | None) -> dict[str, Any]:
    """Check an engine; facts, and what could not be checked here."""
    from aethernet.engines.identity import check_engine

    if onnx is not None and not onnx.is_file():
        raise UsageError(f"expected an ONNX file at {onnx}, found nothing")
    checked = check_engine(engine, onnx=onnx)
    return {"file": str(engine), "fits": True, "notes": list(checked.notes), **record_facts(checked.record)}
