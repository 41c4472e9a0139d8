"""Several releases on Dask: on processes of this machine, or on the workers of a scheduler that runs already.

Specs go there and release folders come back through the store, as with Prefect's own workers, so a scheduler's machines
need no access to this one's disk. What distinguishes Dask is that its workers need no Prefect of their own to poll:
a cluster that is there for other work can make releases, too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from prefect import flow, task
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import TaskRunner

from aethernet.errors import AethernetError, MissingDependencyError
from aethernet.release.spec import read_spec
from aethernet.store.store import Store
from flows.packing import pack_bundle, pack_spec, place_bundle
from flows.release_all import ReleaseResult, run_release
from flows.session import require_server, watched

__all__ = ["release_on_dask"]


def release_on_dask(
    specs: Mapping[str, Path], store: Store, output: Path, options: list[str], jobs: int, scheduler: str | None = None
) -> list[ReleaseResult]:
    """Run the releases on Dask and put their folders in ``output``; a failed one does not stop the others.

    A worker that dies takes nothing along but the stage it was in: Dask gives its release to another one.

    Args:
        specs: Name of each release -> its ``release.toml``.
        store: The store that all workers see.
        output: Folder in which release folders are put.
        options: Of ``python -m flows release``, for every release.
        jobs: Releases at a time, without ``scheduler``.
        scheduler: Address of a running scheduler, such as ``tcp://host:8786``; its workers decide how many at a time.

    Raises:
        MissingDependencyError: Dask is not installed.
        UsageError: There is a scheduler, but no Prefect server that its workers could reach.
    """
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "error")  # read once, at the first import
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise MissingDependencyError("prefect-dask", "cluster") from error
    if scheduler is not None:
        require_server()
        runner = DaskTaskRunner(address=scheduler)
    else:
        # A release computes with threads of its own; a process for each keeps crashes apart.
        runner = DaskTaskRunner(
            cluster_kwargs={"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
        )

    @flow(name="release-all", task_runner=cast(TaskRunner[PrefectFuture[Any]], runner), persist_result=False)
    def run() -> dict[str, Any]:
        packed, failed = {}, {}
        for name, path in specs.items():
            try:
                packed[name] = pack_spec(read_spec(path), store)
            except AethernetError as error:
                failed[name] = error
        futures = {name: _release_packed.submit(name, text, options, store.address) for name, text in packed.items()}
        wait(list(futures.values()))
        return failed | {name: future.result(raise_on_failure=False) for name, future in futures.items()}

    found = run()
    return [_placed(name, found[name], output, store) for name in specs]


@task(persist_result=False, task_run_name="release {name}")
def _release_packed(name: str, packed: str, options: list[str], store_address: str) -> tuple[ReleaseResult, str]:
    """On a Dask worker: make one release, and leave its folder in the store."""
    store = Store(store_address)
    with store.scratch() as folder, watched() as watch:
        made = run_release(name, packed, [*options, "--output", str(folder), "--store", store.address], watch)
        assert made.bundle is not None  # or it would have raised
        return made, pack_bundle(made.bundle, store)


def _placed(name: str, found: object, output: Path, store: Store) -> ReleaseResult:
    if isinstance(found, BaseException):
        return ReleaseResult(name=name, error=str(found))
    made, packed = cast(tuple[ReleaseResult, str], found)
    try:
        return made.model_copy(update={"bundle": place_bundle(packed, output, store)})
    except AethernetError as error:
        return ReleaseResult(name=name, error=str(error))
