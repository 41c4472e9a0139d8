"""Several releases, a few at a time; each is a flow of its own."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel

from aethernet.spec import ReleaseSpec
from aethernet.store import Store
from flows._reporting import Progress
from flows.release import release
from tasks._caching import RunContext, running

__all__ = ["Result", "release_all"]


class Result(BaseModel):
    """How one of the releases ended."""

    name: str
    bundle: Path | None = None
    identity: str | None = None
    published: str | None = None
    error: str | None = None


@task(persist_result=False, task_run_name="release {spec.name}")
def _release_one(spec: ReleaseSpec, output: Path, hub: str | None, store: str) -> Result:
    artifacts = Store(store)
    progress = Progress(spec.name, artifacts.root / "durations" / f"{spec.name}.json")
    with running(RunContext(store=artifacts, observers=(progress,))):
        outcome = release(spec, output, hub)
    progress.finish()
    return Result(
        name=spec.name,
        bundle=outcome.bundle,
        identity=outcome.manifest.identity,
        published=outcome.publication.address if outcome.publication else None,
    )


def release_all(specs: list[ReleaseSpec], output: Path, hub: str | None, store: str, jobs: int) -> list[Result]:
    """Run the releases, ``jobs`` at a time; a failed one is reported in its result and does not stop the others."""

    @flow(
        name="release-all",
        task_runner=ThreadPoolTaskRunner(max_workers=jobs),
        persist_result=False,
        validate_parameters=False,
    )
    def run() -> list[Result]:
        futures = [_release_one.submit(spec, output, hub, store) for spec in specs]
        wait(futures)
        results = []
        for spec, future in zip(specs, futures, strict=True):
            found = future.result(raise_on_failure=False)
            results.append(found if isinstance(found, Result) else Result(name=spec.name, error=str(found)))
        return results

    return run()
