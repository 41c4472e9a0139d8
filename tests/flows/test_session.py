"""The embedded server: Prefect's own, started without its code in this process, gone with the block."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aethernet.errors import AethernetError
from flows import session as _session
from flows.session import embedded_server, server_command, server_environment
from tests.support.engine import fill_prefect_home
from tests.support.workplace import Workplace


def test_the_server_is_started_as_prefect_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's own line is read from Prefect: an upgrade that changes it is noticed here."""
    from prefect.server.api import server as module

    found: dict[str, Any] = {}
    monkeypatch.setattr(module.subprocess, "Popen", lambda **options: found.update(options))
    theirs = module.SubprocessASGIServer(port=4321)
    theirs._run_uvicorn_command()
    theirs.stop()

    assert server_command(4321) == found["args"]
    assert server_environment() == found["env"]
    assert found.keys() == {"args", "env"}


_BESIDE_A_SERVER = """
import sys
from flows.session import embedded_server, prepare_prefect
prepare_prefect()
with embedded_server():
    import flows.release
print([name for name in sys.modules if name.startswith("prefect.server")])
"""


def test_a_command_beside_a_server_reads_nothing_of_the_servers_code(tmp_path: Path) -> None:
    own = {"PREFECT_API_URL": "http://127.0.0.1:1/api"}

    told = subprocess.run(
        [sys.executable, "-c", _BESIDE_A_SERVER],
        env=Workplace(tmp_path).environment(tmp_path) | own,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout == "[]\n"


def _without_server(monkeypatch: pytest.MonkeyPatch, codes: list[int]) -> list[int]:
    """Servers that end at once, with these exit codes; the ports they were given."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    ports: list[int] = []

    def command(port: int) -> list[str]:
        ports.append(port)
        return [sys.executable, "-c", f"raise SystemExit({codes[len(ports) - 1]})"]

    monkeypatch.setattr(_session, "server_command", command)
    with (
        temporary_settings({PREFECT_API_URL: None}),
        pytest.raises(AethernetError, match="did not start") as caught,
        embedded_server(),
    ):
        raise AssertionError("there is no server")
    assert f"exit code {codes[len(ports) - 1]}" in str(caught.value)
    return ports


def test_a_server_that_does_not_start_is_an_error_with_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(_without_server(monkeypatch, [1])) == 1


def test_a_port_that_was_taken_meanwhile_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = _without_server(monkeypatch, [3, 3, 1])

    assert len(ports) == len(set(ports)) == 3


@pytest.mark.slow
def test_the_server_ends_with_its_block_also_when_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from prefect.settings import PREFECT_API_URL, temporary_settings

    fill_prefect_home(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    called: list[str] = []
    addresses: list[str] = []

    def use() -> None:
        with embedded_server(lambda: called.append("meanwhile")):
            addresses.append(str(PREFECT_API_URL.value()))
            assert httpx.get(f"{addresses[0]}/health").json() is True
            raise httpx.ReadError("the block's own")

    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(httpx.ReadError, match="the block's own"):
        use()

    assert called == ["meanwhile"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{addresses[0]}/health")
