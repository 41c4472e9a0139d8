"""``python -m flows deploy``, ``worker`` and ``serve-builds``: releases on several machines."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from aethernet.cli.options import AsJson
from aethernet.cli.output import emit_json, say
from aethernet.errors import UsageError

__all__ = ["deploy", "serve_builds", "worker"]


def deploy(
    work_pool: Annotated[str, typer.Option(help="Pool of the workers; made, for processes, if missing.")] = "aethernet",
    gpu: Annotated[
        list[str] | None, typer.Option(help="Card to build engines on, such as 'NVIDIA GeForce RTX 4090'.")
    ] = None,
    releases: Annotated[
        int | None, typer.Option(min=1, help="Releases at a time on all workers (at first 64).")
    ] = None,
    gpu_jobs: Annotated[int | None, typer.Option(min=1, help="Jobs on GPUs at a time on all (at first 1).")] = None,
    as_json: AsJson = False,
) -> None:
    """Register deployments, work pool and concurrency limits on the Prefect server of PREFECT_API_URL."""
    from flows.deploying import deploy as run

    deployments = run(work_pool, gpu or (), releases=releases, gpu_jobs=gpu_jobs)
    if as_json:
        emit_json({"work_pool": work_pool, "deployments": deployments})
    else:
        print("\n".join(deployments))
    say(f"next: python -m flows worker --work-pool {work_pool}, on every machine")


def worker(
    work_pool: Annotated[str, typer.Option(help="Pool whose runs are taken.")] = "aethernet",
    queue: Annotated[
        list[str] | None, typer.Option(help="Queues to take from; that of this machine's GPU is added.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of this worker in Prefect's UI.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Runs at a time on this machine.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Run what a pool's queues hold on this machine, until stopped."""
    from flows.deploying import work
    from flows.session import require_server

    require_server()
    queues = queue or ["default"]
    if as_json:
        emit_json({"work_pool": work_pool, "queues": queues, "name": name, "limit": limit})
        sys.stdout.flush()  # this process becomes the worker
    work(work_pool, queues, name=name, limit=limit)


def serve_builds(
    name: Annotated[str, typer.Option(help="Name of the deployment: build-engines/NAME.")] = "gpu",
    as_json: AsJson = False,
) -> None:
    """Build engines on this machine for releases that run elsewhere, until stopped; needs PREFECT_API_URL."""
    from prefect.settings import get_current_settings

    from flows.build import build_engines

    if not get_current_settings().api.url:
        raise UsageError(
            "expected a Prefect server that the releases use too, found none configured",
            hint="start one with `prefect server start` and set PREFECT_API_URL on both machines",
        )
    if as_json:
        emit_json({"deployment": f"build-engines/{name}"})
        sys.stdout.flush()
    build_engines.serve(name=name, tags=["gpu"], limit=1, pause_on_shutdown=False, print_starting_message=False)
