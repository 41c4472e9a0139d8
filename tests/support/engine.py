"""Prefect's engine for a test session."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

__all__ = ["engine"]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server of its own, with a home of its own, for all tests that need the engine."""
    from flows._session import prepare_prefect

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        if "prefect" not in sys.modules:
            prepare_prefect()
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            yield
