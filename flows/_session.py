"""One process's use of Prefect: its settings, and an embedded server that does not outlive it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["embedded_server", "prepare_prefect"]

# Reads until the flow's process is gone, however it went, then ends the server.
_WATCHER = """
import os, signal, sys
sys.stdin.buffer.read()
try:
    os.kill(int(sys.argv[1]), signal.SIGTERM)
except ProcessLookupError:
    pass
"""


def prepare_prefect() -> None:
    """Settings for the embedded server, before Prefect is imported; what the user has set stays."""
    defaults = {
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "DO_NOT_TRACK": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


@contextmanager
def embedded_server() -> Iterator[None]:
    """Prefect's own embedded server for the time of the block, unless a server is configured.

    Prefect starts one by itself when needed, but leaves it running, with our output streams open, when the flow is
    killed.
    """
    from prefect.logging.handlers import APILogWorker
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        yield
        return
    server = SubprocessASGIServer()
    server.start()
    assert server.server_process is not None  # start() raises otherwise
    watcher = subprocess.Popen(
        [sys.executable, "-S", "-c", _WATCHER, str(server.server_process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        APILogWorker.drain_all(timeout=5)
        server.stop()
        if watcher.stdin is not None:
            watcher.stdin.close()
        watcher.wait()
