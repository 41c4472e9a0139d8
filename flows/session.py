"""One process's use of Prefect: its settings, and an embedded server that does not outlive it."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "CHECKOUT",
    "LIMITS",
    "embedded_server",
    "free_port",
    "limited",
    "located",
    "on_worker",
    "prepare_prefect",
    "require_server",
    "server_command",
    "server_environment",
    "watched",
]

CHECKOUT = Path(__file__).resolve().parents[1]
"""The folder that this code stands in."""

LIMITS = {"aethernet-releases": 64, "aethernet-gpu": 1}
"""Global concurrency limits that ``python -m flows deploy`` creates: how much may happen at once on all workers."""

_PORTS_TRIED, _PORT_TAKEN = 5, 3
"""Between our look for a free port and the server's taking it somebody else may have; it ends with that code then."""

# Is told process ids, and ends those processes once ours is gone, however it went.
_WATCHER = """
import os, signal, sys, time
def send(process, which):
    try:
        os.kill(process, which)
        return True
    except ProcessLookupError:
        return False
processes = [int(line) for line in sys.stdin.read().split()]
alive = [process for process in processes if send(process, signal.SIGTERM)]
if alive:
    time.sleep(3)
for process in alive:
    send(process, signal.SIGKILL)
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
def watched() -> Iterator[Callable[[int], None]]:
    """Takes ids of child processes, which then do not outlive this process, not even when it is killed."""
    watcher = subprocess.Popen(
        [sys.executable, "-S", "-c", _WATCHER],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        yield lambda process: print(process, file=watcher.stdin, flush=True)
    except BaseException:
        watcher.communicate()  # ends them now
        raise
    finally:
        watcher.kill()  # before it ends a process that has taken over the id of one of them
        watcher.communicate()


@contextmanager
def embedded_server(meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Prefect's own embedded server for the time of the block, unless a server is configured.

    Prefect starts one by itself when needed, but leaves it running, with our output streams open, when the flow is
    killed; and reads all of the server's code into this process, too, which takes seconds.

    Args:
        meanwhile: Called while the server starts, which takes seconds: for imports that will be needed.

    Raises:
        AethernetError: The server does not start.
    """
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        get_current_settings,
        temporary_settings,
    )

    if get_current_settings().api.url:
        import prefect.main  # noqa: F401 (arranges all logging when it is imported)

        # Its UI shows a line per step; here they are on stderr already.
        for name in ("prefect.flow_runs", "prefect.task_runs"):
            shown = logging.getLogger(name)
            shown.setLevel(logging.INFO)
            shown.propagate = False
        try:
            yield
        finally:
            APILogWorker.drain_all(timeout=5)
        return
    # Before the server, whose start takes seconds in which the flow may be killed, too.
    with watched() as watch, _served(watch, meanwhile) as address:
        # Heartbeats tell a server about dead runs. Ours dies with the run, whose end would wait a second for them.
        settings = {PREFECT_API_URL: address, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        try:
            with temporary_settings(settings):
                yield
        finally:
            APILogWorker.drain_all(timeout=5)


@contextmanager
def _served(watch: Callable[[int], None], meanwhile: Callable[[], object]) -> Iterator[str]:
    """Address of a server that ends with the block."""
    from prefect.settings import get_current_settings

    from aethernet.errors import AethernetError

    until = time.monotonic() + get_current_settings().server.ephemeral.startup_timeout_seconds
    for attempt in range(_PORTS_TRIED):
        port = free_port()
        address = f"http://127.0.0.1:{port}/api"
        # A group of its own: Ctrl-C in a terminal is for us, and the flow's end has to be told to this server.
        process = subprocess.Popen(server_command(port), env=server_environment(), start_new_session=True)
        try:
            watch(process.pid)
            if attempt == 0:
                meanwhile()
            if _answers(process, address, until):
                yield address
                return
        finally:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.returncode != _PORT_TAKEN:
            break
    raise AethernetError(
        f"Prefect's embedded server did not start (exit code {process.returncode})",
        hint="`prefect server start` shows why; PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS gives it more time",
    )


def _answers(process: subprocess.Popen[bytes], address: str, until: float) -> bool:
    """Waits for a server's first answer, for its end or for the time to be over."""
    import httpx

    with httpx.Client(timeout=10) as client:
        while process.poll() is None and time.monotonic() < until:
            with suppress(httpx.HTTPError):
                if client.get(f"{address}/health").status_code == 200:
                    return True
            time.sleep(0.05)
    return False


def server_command(port: int) -> list[str]:
    """How Prefect starts its embedded server; a test holds it against Prefect's own line."""
    import prefect

    application = [
        "--app-dir",
        str(prefect.__module_path__.parent),
        "--factory",
        "prefect.server.api.server:create_app",
    ]
    place = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    return [sys.executable, "-m", "uvicorn", *application, *place]


def server_environment() -> dict[str, str]:
    """The variables it starts it with."""
    from prefect.settings import get_current_settings

    own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return {**os.environ, **own, **get_current_settings().to_environment_variables(exclude_unset=True)}


def free_port() -> int:
    """A port of this machine's loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_server() -> None:
    """Raises :class:`UsageError` where no Prefect server is configured that workers could use, too."""
    from prefect.settings import get_current_settings

    from aethernet.errors import UsageError

    if not get_current_settings().api.url:
        raise UsageError(
            "expected a Prefect server, found none configured",
            hint="start one with `prefect server start` and set PREFECT_API_URL",
        )


def on_worker() -> bool:
    """Whether this is a run of a deployment: its caller is elsewhere, and sees its state and nothing else."""
    from prefect import runtime

    return runtime.deployment.id is not None


def located(path: Path) -> Path:
    """A path; of this checkout where it is relative and a worker runs us, whose runs have folders of their own."""
    return CHECKOUT / path if on_worker() else path


@contextmanager
def limited(name: str) -> Iterator[None]:
    """One slot of a global concurrency limit, in runs that a worker started; others have no server in common.

    Raises:
        UsageError: There is no such limit: Prefect would let everybody in.
    """
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import ObjectNotFound

    from aethernet.errors import UsageError

    if not on_worker():
        yield
        return
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound as error:
            raise UsageError(
                f"expected the global concurrency limit '{name}' on the Prefect server, found none",
                hint="run `python -m flows deploy` once against this server",
            ) from error
    # A server that is away for a while must not end what is running.
    with concurrency(name, occupy=1, strict=True, raise_on_lease_renewal_failure=False):
        yield
