"""Build: TensorRT engines of the released forms, tried where there is a GPU; or the reason why there is none."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from pydantic import BaseModel

from aethernet.artifact import Artifact
from aethernet.checkpoint import load
from aethernet.comparison import Limits
from aethernet.comparison import engines as trial
from aethernet.comparison.engines import Trial, runs_here
from aethernet.engines import builder
from aethernet.engines.backends import Backend, Gpu, find_gpu, installed_version
from aethernet.engines.builder import BuildConfig, plan_builds
from aethernet.engines.identity import SIDECAR, EngineRecord, engine_name
from aethernet.errors import AethernetError, EngineError, MissingDependencyError, UsageError
from aethernet.precision import Precision
from aethernet.release.manifest import EngineEntry
from aethernet.release.spec import EngineSpec
from tasks.caching import current_store, stage
from tasks.fetch import ValidationImage

__all__ = ["EngineOutcome", "build", "build_engine", "try_engine"]


class Compiled(BaseModel):
    """An engine as the store keeps it."""

    engine: Artifact
    sidecar: Artifact
    record: EngineRecord
    seconds: float
    """That building it took."""


class EngineOutcome(BaseModel):
    """What became of one engine."""

    entry: EngineEntry
    engine: Artifact | None = None
    sidecar: Artifact | None = None
    trial: Trial | None = None
    build_seconds: float | None = None


@stage()
def build_engine(model: Artifact, config: BuildConfig, label: str) -> Compiled:
    """Build one engine; key and record hold everything it is tied to."""
    del label
    store = current_store()
    capabilities = config.capabilities or ((config.gpu.capability,) if config.gpu else ("none",))
    name = engine_name(model.name, config.backend, capabilities, config.profiles)
    with store.scratch() as folder:
        built = builder.build_engine(store.get(model), folder / name, config, name=model.name)
        engine, sidecar = store.put(built.engine), store.put(built.sidecar)
        return Compiled(engine=engine, sidecar=sidecar, record=built.record, seconds=built.seconds)


@stage(host_matters=True)
def try_engine(
    compiled: Compiled, gpu: Gpu, reference: Artifact, images: list[ValidationImage], limits: Limits, label: str
) -> Trial:
    """Run an engine beside the training form and time it."""
    del gpu, label  # part of the key, and of what progress is called
    store = current_store()
    network = load(store.get(reference))
    with store.scratch() as folder:
        engine = folder / compiled.engine.name
        shutil.copyfile(store.get(compiled.engine), engine)
        shutil.copyfile(store.get(compiled.sidecar), engine.with_name(engine.name + SIDECAR))
        low = {image.name: store.get(image.low) for image in images}
        return trial.try_engine(
            engine, f"engines/{engine.name}", network.model, low, network.config.in_channels, limits
        )


def build(
    spec: EngineSpec,
    models: Mapping[Precision, Artifact],
    reference: Artifact,
    images: list[ValidationImage],
    limits: Mapping[Precision, Limits],
) -> list[EngineOutcome]:
    """Engines of every form, backend and group of cards; what cannot be built is named with the reason.

    Raises:
        AethernetError: An engine that the spec asks for by precision could not be built or misses its limits.
    """
    engines = []
    for backend in backends_of(spec):
        for precision, model in models.items():
            if spec.precisions is not None and precision not in spec.precisions:
                continue
            try:
                configs = plan_builds(
                    backend,
                    spec.parsed_profiles,
                    capabilities=spec.capabilities,
                    timeout=spec.timeout,
                    memory=None if spec.memory is None else int(spec.memory * 2**30),
                )
                engines += [_build_one(model, precision, one, reference, images, limits[precision]) for one in configs]
            except (EngineError, MissingDependencyError, UsageError) as error:
                if spec.precisions is not None:
                    raise
                engines.append(EngineOutcome(entry=_skipped(precision, backend, error)))
    return engines


def backends_of(spec: EngineSpec) -> tuple[Backend, ...]:
    """The backends a spec names; else TensorRT-RTX, and TensorRT where it can build."""
    if spec.backends is not None:
        return spec.backends
    tuned = installed_version(Backend.TENSORRT) is not None and find_gpu() is not None
    return (Backend.TENSORRT_RTX, Backend.TENSORRT) if tuned else (Backend.TENSORRT_RTX,)


def _build_one(
    model: Artifact,
    precision: Precision,
    config: BuildConfig,
    reference: Artifact,
    images: list[ValidationImage],
    limits: Limits,
) -> EngineOutcome:
    target = ", ".join(config.capabilities or ()) or (config.gpu.name if config.gpu else "")
    label = f"{precision.value} {config.backend.label} {target}"
    compiled = build_engine(model, config, label)
    entry = EngineEntry(
        precision=precision,
        backend=config.backend,
        status="built, not executed",
        file=f"engines/{compiled.engine.name}",
        record=compiled.record,
    )
    built = EngineOutcome(entry=entry, engine=compiled.engine, sidecar=compiled.sidecar, build_seconds=compiled.seconds)
    gpu = find_gpu()
    if gpu is None or not runs_here(compiled.record.identity):
        return built
    tried = try_engine(compiled, gpu, reference, images, limits, label)
    if tried.failures:
        more = f"; and {len(tried.failures) - 3} more" if len(tried.failures) > 3 else ""
        raise EngineError(
            f"{compiled.engine.name} misses its limits on a {gpu.name}: {'; '.join(tried.failures[:3])}{more}"
        )
    return built.model_copy(update={"entry": entry.model_copy(update={"status": "passed"}), "trial": tried})


def _skipped(precision: Precision, backend: Backend, error: AethernetError) -> EngineEntry:
    return EngineEntry(precision=precision, backend=backend, status="skipped", reason=error.reason)
