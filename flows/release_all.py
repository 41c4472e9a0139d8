"""Several releases, a few at a time.

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
from collections.abc import Callable, Mapping
from pathlib import Path

from prefect import flow, task
from prefect.futures import wait
from prefect.settings import get_current_settings
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel

from aethernet.errors import AethernetError
from flows._session import watched

__all__ = ["Result", "release_all"]


class Result(BaseModel):
    """How one of the releases ended."""

    name: str
    bundle: Path | None = None
    identity: str | None = None
    published: str | None = None
    error: str | None = None


def release_all(specs: Mapping[str, Path], options: list[str], jobs: int) -> list[Result]:
    """Run the releases, ``jobs`` at a time; a failed one is reported in its result and does not stop the others.

    Args:
        specs: Name of each release -> its ``release.toml``.
        options: Of ``python -m flows release``, for every release.
        jobs: Releases at a time.
    """

    @flow(name="release-all", task_runner=ThreadPoolTaskRunner(max_workers=jobs), persist_result=False)
    def run() -> list[Result]:
        futures = {name: _release_one.submit(name, spec, options, watch) for name, spec in specs.items()}
        wait(list(futures.values()))
        found = {name: future.result(raise_on_failure=False) for name, future in futures.items()}
        return [one if isinstance(one, Result) else Result(name=name, error=str(one)) for name, one in found.items()]

    with watched() as watch:
        return run()


@task(persist_result=False, task_run_name="release {name}")
def _release_one(name: str, spec: Path, options: list[str], watch: Callable[[int], None]) -> Result:
    command = [sys.executable, "-m", "flows", "release", str(spec), *options, "--json"]
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
    return Result(name=name, bundle=summary["bundle"], identity=summary["identity"], published=summary["published"])


def _environment() -> dict[str, str]:
    """Ours, with this checkout and this Prefect server."""
    checkout = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (checkout, os.environ.get("PYTHONPATH"))))
    return {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True), "PYTHONPATH": path}
