"""Several releases, a few at a time, on this machine or on the workers of a pool.

Each is a process of its own: PyTorch exports one network per process at a time, and a crash stays with the release it
belongs to. All share one Prefect server.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import State, flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.futures import PrefectFuture, wait
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Crashed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import BaseModel

from aethernet.errors import AethernetError, SpecError, UsageError
from aethernet.release.bundle import open_bundle
from aethernet.release.spec import read_spec
from aethernet.store.history import read_note
from aethernet.store.leases import lease_seconds
from aethernet.store.store import Store
from flows.packing import pack_spec, place_bundle
from flows.session import require_server, watched

__all__ = ["ReleaseResult", "read_specs", "release_all", "release_on_workers", "run_release"]

_ATTEMPTS = 3
"""How often a release is given to a worker before its workers' dying is its own failure."""
_POLL_S = 1.0
_PAGE = 100
"""How many runs Prefect is asked about at once; it answers for 200 at most."""


class ReleaseResult(BaseModel):
    """How one of the releases ended."""

    name: str
    bundle: Path | None = None
    identity: str | None = None
    published: str | None = None
    error: str | None = None


def read_specs(folder: Path) -> tuple[dict[str, Path], list[ReleaseResult]]:
    """Name of each release in ``folder`` -> its ``release.toml``; and the failures of those that cannot be read.

    Raises:
        UsageError: There is none, or two have one name.
    """
    paths = sorted(folder.glob("*/release.toml")) if folder.is_dir() else []
    if not paths:
        raise UsageError(f"expected NAME/release.toml in {folder}, found none")
    specs: dict[str, Path] = {}
    unreadable = []
    for path in paths:
        try:
            name = read_spec(path).name
        except SpecError as error:
            unreadable.append(ReleaseResult(name=path.parent.name, error=str(error)))
            continue
        if name in specs:
            raise UsageError(f"expected every spec to have a name of its own, found {name} in {specs[name]} and {path}")
        specs[name] = path
    return specs, unreadable


def release_all(specs: Mapping[str, Path], options: list[str], jobs: int) -> list[ReleaseResult]:
    """Run the releases, ``jobs`` at a time; a failed one is reported in its result and does not stop the others.

    Args:
        specs: Name of each release -> its ``release.toml``.
        options: Of ``python -m flows release``, for every release.
        jobs: Releases at a time.
    """
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=jobs)

    @flow(name="release-all", task_runner=cast(TaskRunner[PrefectFuture[Any]], runner), persist_result=False)
    def run() -> list[ReleaseResult]:
        futures = {name: _release_one.submit(name, spec, options, watch) for name, spec in specs.items()}
        wait(list(futures.values()))
        found = {name: future.result(raise_on_failure=False) for name, future in futures.items()}
        return [
            one if isinstance(one, ReleaseResult) else ReleaseResult(name=name, error=str(one))
            for name, one in found.items()
        ]

    with watched() as watch:
        return run()


@task(persist_result=False, task_run_name="release {name}")
def _release_one(name: str, spec: Path, options: list[str], watch: Callable[[int], None]) -> ReleaseResult:
    return run_release(name, str(spec), options, watch)


def run_release(name: str, spec: str, options: list[str], watch: Callable[[int], None]) -> ReleaseResult:
    """One release in a process of its own, whose messages pass through.

    Args:
        name: Of the release.
        spec: Path, or text of :func:`flows.packing.pack_spec`.
        options: Of ``python -m flows release``.
        watch: Told the process, so that it does not outlive ours.

    Raises:
        AethernetError: It failed; the message is its own.
    """
    command = [sys.executable, "-m", "flows", "release", spec, *options, "--json"]
    told = []
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        subprocess.Popen(
            command, env=_environment(), stdout=output, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        ) as process,
    ):
        watch(process.pid)
        assert process.stderr is not None  # it is a pipe
        for line in process.stderr:
            told.append(line)
            sys.stderr.write(line)
        process.wait()
        output.seek(0)
        printed = output.read()
    if process.returncode:
        sys.stderr.write(printed)  # the table of a gate that did not open
        reason = re.search(r"^error: (.*?)(\nhint: |\Z)", "".join(told).rstrip(), re.MULTILINE | re.DOTALL)
        raise AethernetError(reason[1] if reason else f"ended with exit code {process.returncode}")
    summary = json.loads(printed)
    return ReleaseResult(
        name=name, bundle=summary["bundle"], identity=summary["identity"], published=summary["published"]
    )


# --- on workers ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """A release that workers are making."""

    name: str
    parameters: dict[str, Any]
    id: UUID
    attempt: int
    told: object = None
    """The last that was heard of the run: Prefect's state, and the beat of its note in the store."""
    heard: float = field(default_factory=time.monotonic)


def release_on_workers(
    specs: Mapping[str, Path], store: Store, output: Path, parameters: Mapping[str, Any], work_pool: str
) -> list[ReleaseResult]:
    """Make releases as runs of the deployment ``release/WORK_POOL``, and put their folders in ``output``.

    A run that Prefect believes alive but that is silent has lost its worker: it is marked as crashed and started again,
    and goes on behind the last stage that was finished. Whatever ends this function early cancels the runs.

    Args:
        specs: Name of each release -> its ``release.toml``.
        store: The store that all workers see.
        output: Folder in which release folders are put.
        parameters: Of the deployment, for every release.
        work_pool: Whose workers make them.

    Raises:
        UsageError: No server is configured, or it has no such deployment.
    """
    require_server()
    deployment = f"release/{work_pool}"
    results: dict[str, ReleaseResult] = {}
    runs: dict[str, _Run] = {}
    try:
        for name, path in specs.items():
            try:
                given = {**parameters, "spec": pack_spec(read_spec(path), store), "store": store.address}
            except AethernetError as error:
                results[name] = ReleaseResult(name=name, error=str(error))
                continue
            runs[name] = _Run(name, given, _start(deployment, name, given), 1)
        while runs:
            time.sleep(_POLL_S)
            for run, state in _states(runs):
                if state is not None and state.is_final() and not state.is_crashed():
                    results[run.name] = _result(run, state, store, output)
                    why = results[run.name].error
                    _say(f"{run.name}  {f'✗ {why}' if why else '✓ released'}")
                    del runs[run.name]
                elif (state is not None and state.is_crashed()) or _is_silent(run, state, store):
                    if run.attempt == _ATTEMPTS:
                        results[run.name] = ReleaseResult(name=run.name, error=f"its worker died {_ATTEMPTS} times")
                        _give_up(run)
                        del runs[run.name]
                        continue
                    _say(f"{run.name}  ! its worker died; another one goes on")
                    _give_up(run)
                    again = _start(deployment, run.name, run.parameters)
                    runs[run.name] = _Run(run.name, run.parameters, again, run.attempt + 1)
    except BaseException:
        for run in runs.values():
            with suppress(Exception), get_client(sync_client=True) as client:
                client.set_flow_run_state(run.id, Cancelling())
        raise
    return [results[name] for name in specs]


def _start(deployment: str, name: str, parameters: Mapping[str, Any]) -> UUID:
    try:
        run = cast(
            FlowRun,
            run_deployment(
                deployment, parameters=dict(parameters), flow_run_name=f"release {name}", timeout=0, as_subflow=True
            ),
        )
    except ObjectNotFound as error:
        raise UsageError(
            f"expected the deployment {deployment} on the Prefect server, found none",
            hint="register it with `python -m flows deploy --work-pool NAME`",
        ) from error
    return run.id


def _states(runs: Mapping[str, _Run]) -> list[tuple[_Run, State | None]]:
    """What Prefect knows of each run; nothing while its server does not answer."""
    by_id = {run.id: run for run in runs.values()}
    found: dict[UUID, State | None] = {}
    try:
        with get_client(sync_client=True) as client:
            for start in range(0, len(by_id), _PAGE):
                wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(by_id)[start : start + _PAGE]))
                page = client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE)
                found |= {run.id: run.state for run in page}
    except (httpx.HTTPError, PrefectException):
        # Silence is the server's now, not the workers'.
        for run in runs.values():
            run.heard = time.monotonic()
        return []
    return [(by_id[one], state) for one, state in found.items()]


def _is_silent(run: _Run, state: State | None, store: Store) -> bool:
    """Whether a run that has a worker was not heard of for longer than its lease; a start takes longer than a beat."""
    if state is None or state.is_scheduled() or state.type is StateType.CANCELLING:
        run.heard = time.monotonic()
        return False
    note = read_note(store, str(run.id))
    told = (state.type, note and note.beat)
    if told != run.told:
        run.told, run.heard = told, time.monotonic()
    return time.monotonic() - run.heard > lease_seconds() * (1 if note else 4)


def _give_up(run: _Run) -> None:
    """OnMessage Prefect what it cannot know: nobody works on this run any more."""
    with suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Crashed(message="its worker is silent"), force=True)


def _result(run: _Run, state: State, store: Store, output: Path) -> ReleaseResult:
    told = state.message or ""
    if not state.is_completed():
        return ReleaseResult(
            name=run.name, error=told.removeprefix("Flow run encountered an exception: ") or state.name
        )
    found = re.search(r" is ([0-9a-f]{64}:\d+)(?:, published as (\S+))?", told)
    if found is None:
        return ReleaseResult(name=run.name, error=f"expected to be told where the release is, found: {told}")
    try:
        bundle = place_bundle(found[1], output, store)
    except AethernetError as error:
        return ReleaseResult(name=run.name, error=str(error))
    return ReleaseResult(
        name=run.name, bundle=bundle, identity=open_bundle(bundle).manifest.identity, published=found[2]
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 (progress, as the releases' own)


def _environment() -> dict[str, str]:
    """Ours, with this checkout and this Prefect server."""
    checkout = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (checkout, os.environ.get("PYTHONPATH"))))
    return {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True), "PYTHONPATH": path}
