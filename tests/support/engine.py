"""Prefect's engine for a test session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flows.session import prepare_prefect

__all__ = ["engine", "server"]


_started: list[bool] = []


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server of its own, with a home of its own, for all tests that need the engine."""
    if _started:  # by the other folder that imports this fixture
        yield
        return
    _started.append(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        prepare_prefect()
        from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
        from prefect.testing.utilities import prefect_test_harness

        with (
            prefect_test_harness(server_startup_timeout=120),
            temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}),
        ):
            yield


@pytest.fixture
def server(engine: None) -> dict[str, str]:
    """Variables by which a command uses the session's server; one of its own takes longer than many a command."""
    from prefect.settings import PREFECT_API_URL

    return {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
