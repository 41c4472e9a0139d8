"""Deployments, work pool and limits on a Prefect server, and the workers that run them."""

from __future__ import annotations

import contextlib
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import yaml  # type: ignore[import-untyped]
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings

from aethernet.errors import AethernetError
from flows.reporting import slug
from flows.session import CHECKOUT, LIMITS, require_server

__all__ = ["deploy", "queue_of", "work"]


def deploy(
    work_pool: str, gpus: Iterable[str] = (), *, releases: int | None = None, gpu_jobs: int | None = None
) -> list[str]:
    """Register what ``prefect.yaml`` lists on the configured server, with its work pool and limits.

    Limits that exist keep their number unless one is given, so that what was set by hand in the UI stays.

    Args:
        work_pool: Made, for processes, where there is none of that name.
        gpus: Names of cards, as the driver says them; each gets ``build-engines/QUEUE`` and the queue :func:`queue_of`.
        releases: Releases at a time on all workers.
        gpu_jobs: Engine builds and fine-tunings on GPUs at a time on all workers.

    Returns:
        ``FLOW/DEPLOYMENT`` of each.
    """
    require_server()
    listed = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text(encoding="utf-8"))
    for deployment in listed["deployments"]:
        deployment["name"] = work_pool
        deployment["work_pool"] = {"name": work_pool, "work_queue_name": "default"}
    for gpu in gpus:
        listed["deployments"].append(
            {
                "name": queue_of(gpu),
                "entrypoint": "flows.build.build_engines",
                "description": f"Build TensorRT engines on a worker with a {gpu}.",
                "tags": ["gpu"],
                "work_pool": {"name": work_pool, "work_queue_name": queue_of(gpu)},
                # A release asks for it, not a person: its one parameter is a whole request.
                "enforce_parameter_schema": False,
            }
        )
    with get_client(sync_client=True) as client:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=work_pool, type="process"))
        wanted = {"aethernet-releases": releases, "aethernet-gpu": gpu_jobs}
        there = {limit.name for limit in client.read_global_concurrency_limits(limit=200)}
        for name, default in LIMITS.items():
            if wanted[name] is not None or name not in there:
                client.upsert_global_concurrency_limit_by_name(name, wanted[name] or default)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump(listed), encoding="utf-8")
        finished = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)],
            cwd=CHECKOUT,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    if finished.returncode:
        told = (finished.stderr or finished.stdout).strip().splitlines()
        raise AethernetError(f"Prefect could not register the deployments: {' '.join(told[-3:])}")
    return [f"{pkgutil.resolve_name(one['entrypoint']).name}/{one['name']}" for one in listed["deployments"]]


def work(work_pool: str, queues: Iterable[str], *, name: str | None, limit: int) -> NoReturn:
    """Become a worker for what the queues hold; the queue of this machine's own GPU is always among them."""
    from aethernet.engines.backends import find_gpu

    require_server()
    gpu = find_gpu()
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", work_pool]
    command += ["--limit", str(limit), *(["--name", name] if name else [])]
    for queue in [*queues, *([queue_of(gpu.name)] if gpu else [])]:
        command += ["--work-queue", queue]
    os.execve(sys.executable, command, _environment())


def queue_of(gpu: str) -> str:
    """Work queue, and name of the deployment, for a GPU: ``NVIDIA GeForce RTX 4090`` -> ``nvidia-geforce-rtx-4090``."""
    return slug(gpu)


def _environment() -> dict[str, str]:
    """Ours, with this checkout to import flows from, and retry_policy while a server or its database restarts."""
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    patient = {"PREFECT_CLIENT_MAX_RETRIES": "12", "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504"}
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    # Our commands keep Prefect's log to themselves; a worker's is read in the UI.
    told = {"PREFECT_LOGGING_LEVEL": "INFO"} if settings.get("PREFECT_LOGGING_LEVEL") == "CRITICAL" else {}
    return {**patient, **os.environ, **settings, **told, "PYTHONPATH": path}
