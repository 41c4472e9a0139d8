"""Prefect for tests: homes whose database is there already, and one server for a test session."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

from flows.session import embedded_server, prepare_prefect

__all__ = ["engine", "fill_prefect_home", "server"]

# Making the database takes Prefect longer than most releases of the tests. Every version makes another one.
_TEMPLATE = Path(__file__).resolve().parents[2] / ".pytest_cache" / f"prefect-{version('prefect')}"

_started: list[bool] = []


def fill_prefect_home(home: Path) -> None:
    """Put the database of a Prefect that never ran into an empty folder, as Prefect itself makes it."""
    _TEMPLATE.parent.mkdir(exist_ok=True)
    with FileLock(f"{_TEMPLATE}.lock"):
        if not _TEMPLATE.is_dir():
            begun = _TEMPLATE.with_suffix(".begun")
            shutil.rmtree(begun, ignore_errors=True)
            done = subprocess.run(
                [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
                env={**os.environ, "PREFECT_HOME": str(begun), "DO_NOT_TRACK": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            begun.rename(_TEMPLATE)
        shutil.copytree(_TEMPLATE, home, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server of its own, with a home of its own, for all tests that need the engine."""
    if _started:  # by the other folder that imports this fixture
        yield
        return
    _started.append(True)
    home = tmp_path_factory.mktemp("prefect")
    fill_prefect_home(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        prepare_prefect()
        from prefect.settings import (
            PREFECT_LOGGING_TO_API_ENABLED,
            PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
            temporary_settings,
        )

        # Whatever imported Prefect before may have read other settings.
        settings = {PREFECT_LOGGING_TO_API_ENABLED: False, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120}
        with temporary_settings(settings), embedded_server():
            yield


@pytest.fixture
def server(engine: None) -> dict[str, str]:
    """Variables by which a command uses the session's server; one of its own takes longer than many a command."""
    from prefect.settings import PREFECT_API_URL

    return {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
