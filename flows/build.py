"""Engines, built by this process or by a worker on a machine with the GPU, over Prefect's server and a shared store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, cast

from prefect import State, flow
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.states import Completed
from pydantic import BaseModel, TypeAdapter

from aethernet.artifact import Artifact
from aethernet.comparison import Limits, Measurement
from aethernet.engines.backends import find_gpu
from aethernet.errors import EngineError
from aethernet.precision import Precision
from aethernet.release.entries import engine_entries
from aethernet.release.manifest import FileEntry, PartSpeed, SpeedRun
from aethernet.release.spec import EngineSpec
from aethernet.store.store import Store
from flows.session import limited
from tasks.build import EngineOutcome, build
from tasks.caching import RunContext, current_context, running
from tasks.describe import BuildTimes
from tasks.fetch import ValidationImage

__all__ = [
    "BuildRequest",
    "build_engines",
    "build_times",
    "engine_files",
    "engine_measurements",
    "engines_of",
]

_ENGINES = TypeAdapter(list[EngineOutcome])


class BuildRequest(BaseModel):
    """All a worker needs; files are named by digest and lie in the store that both sides see."""

    spec: EngineSpec
    models: dict[Precision, Artifact]
    reference: Artifact
    images: list[ValidationImage]
    limits: dict[Precision, Limits]
    store: str


@flow(name="build-engines", persist_result=False, validate_parameters=False)
def build_engines(request: dict[str, Any]) -> State:
    """Build what a :class:`BuildRequest` says on this machine; the state's message says where the list of engines is.

    The request arrives as JSON: Prefect's own check of parameters does not resolve the types of nested models.
    """
    wanted = BuildRequest.model_validate(request)
    store = Store(wanted.store)
    with running(RunContext(store=store)), _gpu():
        engines = build(wanted.spec, wanted.models, wanted.reference, wanted.images, wanted.limits)
    with store.scratch() as folder:
        (folder / "engines.json").write_bytes(_ENGINES.dump_json(engines))
        return Completed(message=json.dumps(asdict(store.put(folder / "engines.json"))))


def engines_of(
    spec: EngineSpec,
    models: Mapping[Precision, Artifact],
    reference: Artifact,
    images: list[ValidationImage],
    limits: Mapping[Precision, Limits],
) -> list[EngineOutcome]:
    """Engines, built where the spec says.

    Raises:
        EngineError: The worker failed; what it raised is in the message.
    """
    if spec.deployment is None:
        with _gpu():
            return build(spec, models, reference, images, limits)
    store = current_context().store
    request = BuildRequest(
        spec=spec.model_copy(update={"deployment": None}),
        models=dict(models),
        reference=reference,
        images=images,
        limits=dict(limits),
        store=store.address,
    )
    run = cast(FlowRun, run_deployment(spec.deployment, parameters={"request": request.model_dump(mode="json")}))
    if run.state is None or not run.state.is_completed():
        told = run.state.message if run.state else "it has no state"
        raise EngineError(
            f"the worker behind '{spec.deployment}' did not build the engines: {told}",
            hint="its own log has the rest; without `deployment` in the spec they are built here",
        )
    return _ENGINES.validate_json(store.get(Artifact(**json.loads(run.state.message or "{}"))).read_bytes())


def engine_files(engines: Iterable[EngineOutcome]) -> list[FileEntry]:
    """How the manifest lists the engines that were built."""
    return [
        entry
        for one in engines
        if one.engine is not None and one.sidecar is not None
        for entry in engine_entries(one.engine, one.sidecar, one.entry.precision)
    ]


def engine_measurements(engines: Iterable[EngineOutcome]) -> list[Measurement]:
    """What engines that ran computed."""
    return [item for one in engines if one.trial is not None for item in one.trial.measurements]


def build_times(speed: SpeedRun, parts: tuple[PartSpeed, ...], engines: Sequence[EngineOutcome]) -> BuildTimes:
    """How long everything of this build took: the files, int8's parts, building and running engines."""
    built = [(one.engine.name, one) for one in engines if one.engine is not None]
    return BuildTimes(
        speed=speed,
        parts=parts,
        engine_speeds={name: one.trial.speeds for name, one in built if one.trial is not None},
        engine_build_seconds={name: one.build_seconds for name, one in built if one.build_seconds is not None},
    )


def _gpu() -> AbstractContextManager[None]:
    """This machine's GPU for ourselves, where there is one: engines are tuned by timing."""
    return limited("aethernet-gpu") if find_gpu() is not None else nullcontext()
