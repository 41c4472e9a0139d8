"""Run a deployment on a Prefect server from elsewhere, such as a GitHub Actions job, and say how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException

from aethernet.errors import HubError, UsageError
from flows.session import require_server

__all__ = ["Triggered", "trigger"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggered:
    """A deployment's run."""

    id: str
    name: str
    state: str
    """Prefect's name for it, such as Scheduled, Completed, Failed, Crashed, Cancelled."""
    completed: bool
    message: str
    pages: tuple[str, ...] = ()
    """What the run showed in Prefect's UI, as Markdown: tables, cards."""


def trigger(
    deployment: str,
    parameters: Mapping[str, Any],
    *,
    timeout: float | None = 0,
    on_message: Callable[[str], None] = lambda _: None,
) -> Triggered:
    """Start a run of ``FLOW/DEPLOYMENT`` and wait for its end.

    Args:
        deployment: Its name.
        parameters: In place of the deployment's own.
        timeout: Seconds to wait; 0 does not wait, None waits for ever.
        on_message: Called with a sentence that says when it has started.

    Raises:
        UsageError: No server is configured, or it has no such deployment, or other parameters.
        HubError: The server cannot be reached or refused.
    """
    require_server()
    try:
        run = cast(FlowRun, run_deployment(deployment, parameters=dict(parameters), timeout=0, as_subflow=False))
        on_message(f"{deployment}: run {run.name} is {run.state_name or 'created'}")
        if timeout != 0:
            run = _wait(run.id, timeout)
        pages = _pages(run.id) if timeout != 0 else ()
    except ObjectNotFound as error:
        raise UsageError(
            f"expected a deployment called FLOW/DEPLOYMENT, found none called '{deployment}'",
            hint="`prefect deployment ls` lists them",
        ) from error
    except (PrefectException, httpx.HTTPError) as error:
        raise HubError(f"the Prefect server could not run {deployment}: {error or type(error).__name__}") from error
    state = run.state
    return Triggered(
        id=str(run.id),
        name=run.name,
        state=(state.name if state else None) or "unknown",
        completed=state is not None and state.is_completed(),
        message=(state.message if state else None) or "",
        pages=pages,
    )


def _wait(run: UUID, timeout: float | None) -> Any:
    """The run once it has ended, or as it is after ``timeout`` seconds."""
    end = None if timeout is None else time.monotonic() + timeout
    with get_client(sync_client=True) as client:
        while True:
            found = client.read_flow_run(run)
            if (found.state and found.state.is_final()) or (end is not None and time.monotonic() > end):
                return found
            time.sleep(2)


def _pages(run: UUID) -> tuple[str, ...]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))
    return tuple(str(one.data) for one in reversed(found) if one.type == "markdown" and one.data)
