"""Building one engine: checked before, built in a child process, identified after."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from aethernet.artifact import atomic_path, file_digest
from aethernet.engines.backends import (
    DEFAULT_CAPABILITIES,
    TURING,
    Backend,
    Gpu,
    find_gpu,
    group_capabilities,
    require_backend,
)
from aethernet.engines.counts import PlanCounts, TypedCounts, findings_of, intended_int8
from aethernet.engines.identity import EngineFingerprint, EngineRecord, Message, this_system, write_record
from aethernet.engines.memory import estimate_memory, require_memory
from aethernet.engines.process import gpu_lock, run_worker
from aethernet.engines.profiles import Profile, check_profiles
from aethernet.engines.rewriting import loosen, products_to_convolutions
from aethernet.errors import EngineError
from aethernet.graphs.contract import describe_onnx
from aethernet.precision import Precision

if TYPE_CHECKING:
    import onnx

__all__ = ["DEFAULT_TIMEOUT", "BuildConfig", "Built", "build_engine", "plan_builds", "precision_of"]

DEFAULT_TIMEOUT = 1800.0
"""Seconds; TensorRT's own tuning of a large network takes minutes, TensorRT-RTX seconds."""


class BuildConfig(BaseModel):
    """All an engine depends on beside its ONNX file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Backend
    version: str = Field(description="Of the backend")
    profiles: tuple[Profile, ...]
    capabilities: tuple[str, ...] | None = Field(default=None, description="TensorRT-RTX: what to compile for")
    gpu: Gpu | None = Field(default=None, description="TensorRT: the card to tune for")
    system: str = Field(default_factory=this_system)
    timeout: float = Field(default=DEFAULT_TIMEOUT, gt=0, description="Seconds")
    memory: int | None = Field(default=None, gt=0, description="Bytes that must be enough, instead of the card's")


class Built(BaseModel):
    """A finished engine and its identity, as files."""

    model_config = ConfigDict(frozen=True)

    engine: Path
    sidecar: Path
    record: EngineRecord
    seconds: float = Field(description="That TensorRT took; not in the record, because it is never the same")


def plan_builds(
    backend: Backend,
    profiles: tuple[Profile, ...],
    *,
    capabilities: tuple[str, ...] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    memory: int | None = None,
) -> list[BuildConfig]:
    """Settle what builds here will depend on: one engine for each group of cards.

    Args:
        backend: What builds.
        profiles: Input shapes.
        capabilities: For TensorRT-RTX; by default all it knows.
        timeout: Seconds for one engine.
        memory: Bytes of GPU memory that must be enough; by default the card's.

    Raises:
        MissingDependencyError: The backend is not installed.
        EngineError: It cannot build here, or not for these capabilities.
    """
    gpu = find_gpu()
    version = require_backend(backend, gpu)
    if backend is Backend.TENSORRT_RTX:
        return [
            BuildConfig(
                backend=backend,
                version=version,
                profiles=profiles,
                capabilities=group,
                timeout=timeout,
                memory=memory,
            )
            for group in group_capabilities(capabilities or DEFAULT_CAPABILITIES)
        ]
    if capabilities is not None and (gpu is None or capabilities != (gpu.capability,)):
        raise EngineError(
            f"expected TensorRT to build for the card it runs on ({gpu.capability if gpu else 'none'}), "
            f"found {', '.join(capabilities)}",
            hint="leave out the capabilities, or use tensorrt_rtx",
        )
    return [BuildConfig(backend=backend, version=version, profiles=profiles, gpu=gpu, timeout=timeout, memory=memory)]


def precision_of(model: onnx.ModelProto) -> Precision:
    """What an ONNX file is, by its own words or by its types."""
    import onnx

    stated = next((entry.value for entry in model.metadata_props if entry.key == "precision"), None)
    if stated in list(Precision):
        return Precision(stated)
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return Precision.INT8
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return Precision.FP16 if half else Precision.FP32


def build_engine(source: Path | str, destination: Path | str, config: BuildConfig, *, name: str | None = None) -> Built:
    """Build an engine from an ONNX file and write it with its identity beside it.

    Args:
        source: One of our ONNX files; its types are the engine's.
        destination: The engine, called ``.engine``.
        config: From :func:`plan_builds`.
        name: What the identity calls the ONNX file; by default its own name.

    Raises:
        UsageError: A profile cannot fit into memory.
        EngineError: A profile does not fit the file, or the file is not one TensorRT takes.
        BuilderError: The builder failed; ``log`` holds what it said. Nothing is left at ``destination``.
    """
    import google.protobuf.message
    import onnx

    source, destination = Path(source), Path(destination)
    try:
        model = onnx.load(str(source))
    except (OSError, google.protobuf.message.DecodeError) as error:
        raise EngineError(f"expected an ONNX file at {source}, found none that can be read: {error}") from error
    check_profiles(describe_onnx(model), config.profiles)
    _require_signed(model, source)
    precision = precision_of(model)
    memory = {profile.name: estimate_memory(model, profile) for profile in config.profiles}
    require_memory(memory, config.gpu, config.memory)
    intended = intended_int8(model)
    profiles, adjustments = _adjust(model, config)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    gpu = find_gpu()
    with tempfile.TemporaryDirectory(prefix="aethernet-engine-") as scratch, gpu_lock(gpu):
        folder = Path(scratch)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        cache = folder / "timing.cache" if config.backend is Backend.TENSORRT else None
        answer = run_worker(
            {
                "task": "build",
                "backend": config.backend.value,
                "onnx": "model.onnx",
                "engine": "made.engine",
                "precision": precision.value,
                "channels": channels,
                "profiles": [profile.model_dump(mode="json") for profile in profiles],
                "capabilities": config.capabilities,
                # TensorRT-RTX engines for other cards cannot be opened here.
                "gpu": gpu is not None and (config.capabilities is None or gpu.capability in config.capabilities),
                "timing_cache": cache and cache.name,
            },
            folder,
            timeout=config.timeout,
        )
        network = TypedCounts.model_validate(answer["network"])
        plan = PlanCounts.model_validate(answer["plan"]) if answer["plan"] else None
        made = folder / "made.engine"
        identity = EngineFingerprint(
            backend=config.backend,
            version=config.version,
            system=config.system,
            capabilities=config.capabilities,
            gpu=config.gpu,
            precision=precision,
            channels=channels,
            profiles=profiles,
            flags={"strongly_typed": answer["strongly_typed"], "tf32": False},
            adjustments=adjustments,
            onnx=name or source.name,
            onnx_sha256=file_digest(source),
            sha256=file_digest(made),
            size=made.stat().st_size,
            timing_cache_sha256=file_digest(cache) if cache and cache.is_file() else None,
        )
        record = EngineRecord(
            identity=identity,
            network=network,
            plan=plan,
            findings=findings_of(intended, network, plan),
            messages=TypeAdapter(tuple[Message, ...]).validate_python(answer["messages"]),
            memory=memory,
        )
        with atomic_path(destination) as temporary:
            temporary.write_bytes(made.read_bytes())
    sidecar = write_record(record, destination)
    return Built(engine=destination, sidecar=sidecar, record=record, seconds=round(answer["seconds"], 1))


def _require_signed(model: onnx.ModelProto, source: Path) -> None:
    """TensorRT takes no zero-points but zero, and would say so in words nobody understands."""
    import onnx

    unsigned = [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.UINT8]
    if unsigned and any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise EngineError(
            f"expected signed int8 with zero-point 0, found the unsigned form in {source.name}",
            hint="give the file called _int8_trt.onnx beside it",
        )


def _adjust(model: onnx.ModelProto, config: BuildConfig) -> tuple[tuple[Profile, ...], tuple[str, ...]]:
    """Respell a model and profiles for what a backend cannot do, in place; says what was done and why."""
    if config.backend is not Backend.TENSORRT_RTX or TURING not in (config.capabilities or ()):
        return config.profiles, ()
    adjustments = []
    if count := products_to_convolutions(model):
        adjustments.append(f"{count} matrix products as 1x1 convolutions, because TensorRT-RTX lacks others for Turing")
    profiles = loosen(config.profiles)
    if profiles != config.profiles:
        adjustments.append(
            "fixed shapes may be one pixel narrower, because fully fixed ones store 200 MB of constants for Turing"
        )
    return profiles, tuple(adjustments)
