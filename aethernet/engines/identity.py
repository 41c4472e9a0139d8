"""What an engine is tied to, written beside it and held against this machine before anything loads it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from aethernet.artifact import atomic_path, file_digest
from aethernet.engines.backends import Backend, Gpu, find_gpu, installed_version
from aethernet.engines.counts import PlanCounts, TypedCounts
from aethernet.engines.profiles import Profile
from aethernet.errors import BundleError, EngineError, EngineMismatchError
from aethernet.precision import Precision
from aethernet.records import Record

__all__ = [
    "SIDECAR",
    "Checked",
    "EngineFingerprint",
    "EngineRecord",
    "EngineSpeed",
    "Message",
    "check_engine",
    "engine_name",
    "read_record",
    "rebuild_command",
    "this_system",
    "write_record",
]

SIDECAR = ".json"
"""Appended to an engine's file name: ``NAME.engine.json``."""


class EngineFingerprint(Record):
    """What an engine is and what it runs on."""

    backend: Backend
    version: str = Field(description="Of the backend; an engine runs with this version alone")
    system: str = Field(description="Operating system and processor type it was built on; TensorRT's run on no other")
    capabilities: tuple[str, ...] | None = Field(default=None, description="Compute capabilities it was compiled for")
    gpu: Gpu | None = Field(default=None, description="The GPU it was tuned on, where one was used")
    precision: Precision
    channels: int = Field(description="Of the image")
    profiles: tuple[Profile, ...]
    flags: dict[str, bool] = Field(description="Builder settings that change results")
    adjustments: tuple[str, ...] = Field(default=(), description="What was rewritten before the build, and why")
    onnx: str = Field(description="File it was built from")
    onnx_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the engine")
    size: int = Field(gt=0, description="Bytes")
    build_seconds: float | None = Field(
        default=None,
        exclude_if=lambda seconds: seconds is None,
        description="Of earlier versions: now build.json says it, so that two builds differ in the engine alone",
    )
    timing_cache_sha256: str | None = Field(default=None, description="Measured tactics it was built with")


class Message(Record):
    """Something the parser or the builder said."""

    severity: Literal["error", "warning", "info"]
    text: str
    count: int = 1


class EngineRecord(Record):
    """An engine's identity and what was seen while it was built; the file beside it."""

    schema_version: Literal[1] = 1
    identity: EngineFingerprint
    network: TypedCounts = Field(description="Of the parsed, typed network")
    plan: PlanCounts | None = Field(default=None, description="Of the built engine, where it can be read")
    findings: tuple[str, ...] = Field(default=(), description="Where the built engine is not what the file asks for")
    messages: tuple[Message, ...] = ()
    memory: dict[str, int] = Field(description="Profile -> estimated GPU memory in bytes")


class Checked(Record):
    """An engine that may be used, as far as this machine can tell."""

    record: EngineRecord
    notes: tuple[str, ...] = Field(description="What could not be checked here")


class EngineSpeed(Record):
    """How fast an engine is at one shape, data on the GPU, by CUDA events."""

    shape: tuple[int, int, int, int] = Field(description="N, C, H, W of the input")
    median_ms: float
    fastest_ms: float
    slowest_ms: float
    images_per_second: float
    warm_up: int
    runs: int
    gpu: str
    driver: str


def this_system() -> str:
    """Such as ``Linux x86_64``."""
    return f"{platform.system()} {platform.machine()}"


def engine_name(source: str, backend: Backend, capabilities: Sequence[str], profiles: Sequence[Profile]) -> str:
    """File name of an engine: its ONNX file's, profiles, backend, first and last compute capability."""
    stem = source.removesuffix(".onnx").removesuffix("_trt")
    shapes = "_".join(profile.name.replace(":", "-") for profile in profiles)
    first, last = (capabilities[index].replace(".", "") for index in (0, -1))
    return f"{stem}_{shapes}_{backend.value}_sm{first}{f'-{last}' if last != first else ''}.engine"


def write_record(record: EngineRecord, engine: Path) -> Path:
    """Write an engine's sidecar."""
    from aethernet.records import canonical_json

    path = engine.with_name(engine.name + SIDECAR)
    with atomic_path(path) as temporary:
        temporary.write_bytes(canonical_json(record))
    return path


def read_record(engine: Path | str) -> EngineRecord:
    """Read an engine's sidecar.

    Raises:
        EngineError: There is none, or it is not one of ours.
    """
    from aethernet.records import read_model

    engine = Path(engine)
    sidecar = engine.with_name(engine.name + SIDECAR)
    if not engine.is_file():
        raise EngineError(f"expected an engine at {engine}, found nothing")
    try:
        return read_model(EngineRecord, sidecar.read_bytes(), sidecar.name)
    except OSError as error:
        raise EngineError(
            f"expected the engine's identity in {sidecar.name} beside it, found no such file",
            hint="an engine says nothing about itself; copy both files, or build it anew: aethernet engine build",
        ) from error
    except BundleError as error:
        raise EngineError(
            str(error), hint="copy both files again, or build the engine anew: aethernet engine build"
        ) from error


def rebuild_command(identity: EngineFingerprint, onnx: str | None = None) -> str:
    """The command that makes such an engine for this machine."""
    profiles = " ".join(f"--profile {profile.name}" for profile in identity.profiles)
    target = f" --capabilities {','.join(identity.capabilities)}" if identity.capabilities else ""
    return f"aethernet engine build {onnx or identity.onnx} --backend {identity.backend.value} {profiles}{target}"


def check_engine(path: Path | str, *, onnx: Path | None = None) -> Checked:
    """Whether an engine is whole and fits this machine, found out without loading it.

    Args:
        path: The engine, its identity beside it.
        onnx: The file it must have been built from; by default the one of that name beside it or in the folder above.

    Raises:
        EngineError: It is damaged or has no identity.
        EngineMismatchError: It belongs to another ONNX file, library version, system or GPU.
    """
    path = Path(path)
    record = read_record(path)
    identity = record.identity
    size = path.stat().st_size
    if size != identity.size:
        raise EngineError(
            f"expected {identity.size} bytes in {path.name}, found {size}: it is cut off or was replaced",
            hint="copy it again, or build it anew: " + rebuild_command(identity),
        )
    if file_digest(path) != identity.sha256:
        raise EngineError(
            f"expected {path.name} with sha256 {identity.sha256[:12]}, found other content",
            hint="copy it again, or build it anew: " + rebuild_command(identity),
        )
    notes = []
    source = onnx or _source_of(path, identity)
    if source is None:
        notes.append(f"{identity.onnx} does not lie here, so whether the engine belongs to it was not checked")
    elif (found := file_digest(source)) != identity.onnx_sha256:
        raise EngineMismatchError(
            f"expected an engine of {source.name} with sha256 {found[:12]}, "
            f"found one of {identity.onnx} with sha256 {identity.onnx_sha256[:12]}",
            hint="build it anew: " + rebuild_command(identity, str(source)),
        )
    notes += _fits(identity, rebuild_command(identity, str(source) if source else None))
    return Checked(record=record, notes=tuple(notes))


def _source_of(engine: Path, identity: EngineFingerprint) -> Path | None:
    if Path(identity.onnx).name != identity.onnx:
        return None
    places = (engine.parent / identity.onnx, engine.absolute().parent.parent / identity.onnx)
    return next((place for place in places if place.is_file()), None)


def _fits(identity: EngineFingerprint, rebuild: str) -> list[str]:
    """What could not be compared with this machine; raises on what differs."""

    def foreign(expected: str, found: str) -> EngineMismatchError:
        return EngineMismatchError(
            f"expected an engine for {expected}, found one for {found}", hint=f"build it anew: {rebuild}"
        )

    notes = []
    # TensorRT-RTX engines are portable between Windows and Linux; the processor type is the library's.
    if identity.backend is Backend.TENSORRT and identity.system != this_system():
        raise foreign(this_system(), identity.system)
    version = installed_version(identity.backend)
    if version is None:
        notes.append(f"{identity.backend.label} is not installed here, so its version was not compared")
    elif version != identity.version:
        raise foreign(f"{identity.backend.label} {version}", f"{identity.backend.label} {identity.version}")
    gpu = find_gpu()
    if gpu is None:
        notes.append("there is no GPU here, so whether the engine runs was not tried")
        return notes
    if identity.capabilities is not None and gpu.capability not in identity.capabilities:
        raise foreign(f"compute capability {gpu.capability} ({gpu.name})", f"{', '.join(identity.capabilities)}")
    if identity.gpu is not None and identity.capabilities is None:
        if gpu.capability != identity.gpu.capability:
            raise foreign(
                f"compute capability {gpu.capability} ({gpu.name})", f"{identity.gpu.capability} ({identity.gpu.name})"
            )
        if gpu.name != identity.gpu.name:
            notes.append(f"it was tuned on a {identity.gpu.name}; on this {gpu.name} another one may be faster")
    return notes
