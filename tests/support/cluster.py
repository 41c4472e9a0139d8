"""A cluster on loopback: Prefect's server on real PostgreSQL, S3 storage, and workers with homes of their own."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.session import free_port
from tests.support.storage import storage_settings
from tests.support.workplace import REPOSITORY

__all__ = ["Cluster", "Database", "Server", "Worker", "started_cluster"]

LEASE_S = 6.0
POOL = "aethernet"


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.2)


class Database:
    """PostgreSQL in a folder of its own, as an unprivileged user, which it insists on."""

    def __init__(self) -> None:
        self.programs = _postgres_programs()
        self.user = _unprivileged_user()
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        if self.user:
            shutil.chown(self.folder, self.user)
        options = ["--username=prefect", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        self._run("initdb", "-D", str(self.folder / "data"), *options).wait()

    @property
    def address(self) -> str:
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        self.process = self._run(
            "postgres", "-D", str(self.folder / "data"), "-p", str(self.port),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"),
        )  # fmt: skip
        wait_for(lambda: _listens(self.port), 30, "PostgreSQL")

    def stop(self) -> None:
        """At once, as if its machine had gone."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.programs / program, *arguments],
            user=self.user,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _postgres_programs() -> Path:
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    for folder in folders:
        if (folder / "initdb").exists():
            return folder
    pytest.skip("needs PostgreSQL's programs (Debian: apt install postgresql)")


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("PostgreSQL refuses to run as root, and there is no other user to run it as")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """Prefect's server."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}/api"
        self.settings = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.address,
            # A restarted server still knows who holds which slot.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_API_URL": self.address,
            "DO_NOT_TRACK": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
                cwd=self.folder,
                env=_environment(self.folder, self.settings),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self.is_healthy, 120, "Prefect's server")

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


class Worker:
    """A worker as on a machine of its own: home, cache and working directory are its own."""

    def __init__(self, folder: Path, name: str, settings: dict[str, str]) -> None:
        self.folder, self.name, self.settings = folder, name, settings
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        (self.folder / "work").mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows", "worker", "--work-pool", POOL, "--name", self.name],
                cwd=self.folder / "work",
                env=_environment(self.folder, self.settings),
                stdout=log,
                stderr=log,
            )

    def processes(self) -> dict[int, str]:
        """Process id -> command line, of everything started from here."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"HOME={self.folder}\0".encode() in (process / "environ").read_bytes():
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return {number: line for number, line in found.items() if line}

    def kill(self) -> None:
        """Kill -9 of the worker and of everything it has started, as if its machine had gone."""
        while found := self.processes():
            for number in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            if self.process is not None:
                self.process.wait(30)
            time.sleep(0.1)

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return re.sub("\x1b\\[[0-9;]*m", "", path.read_text(errors="replace")) if path.exists() else ""


def _environment(home: Path, settings: dict[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PREFECT_HOME": str(home / "prefect")}
    path = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **own, **path, **settings}


class Cluster:
    """All of it."""

    def __init__(self, folder: Path, storage: str, workers: int) -> None:
        self.folder = folder
        self.database = Database()
        self.server = Server(folder / "server", self.database)
        self.store = f"{storage_bucket(storage)}/aethernet"
        self.settings = {
            **storage_settings(storage),
            "AETHERNET_LEASE_SECONDS": str(LEASE_S),
            "PREFECT_API_URL": self.server.address,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
            "PREFECT_CLIENT_METRICS_ENABLED": "false",
        }
        self.workers = [Worker(folder / f"worker{n}", f"worker{n}", self.settings) for n in range(workers)]

    def start(self) -> None:
        self.database.start()
        self.server.start()
        self.command("deploy", "--work-pool", POOL).check()
        for worker in self.workers:
            worker.start()

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.server.stop()
        self.database.remove()

    @contextlib.contextmanager
    def dask(self, folder: Path) -> Iterator[str]:
        """Address of a Dask scheduler with one worker, each a process of its own."""
        folder.mkdir()
        address = f"tcp://127.0.0.1:{free_port()}"
        own = ["--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"]
        commands = [
            ["scheduler", *own],
            ["worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)],
        ]
        with contextlib.ExitStack() as stack:
            for name, *options in commands:
                log = stack.enter_context((folder / f"{name}.log").open("wb"))
                process = subprocess.Popen(
                    [sys.executable, "-m", f"distributed.cli.dask_{name}", *options],
                    cwd=folder,
                    env=_environment(folder / name, self.settings),
                    stdout=log,
                    stderr=log,
                )
                stack.callback(process.wait, 30)
                stack.callback(process.terminate)
            yield address

    def command(self, *arguments: str) -> Command:
        """``python -m flows`` as a person at a fourth machine."""
        return Command(list(arguments), _environment(self.folder / "person", self.settings))


class Command:
    """A running command."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows", *arguments],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever started the tests may have told its children to ignore Ctrl-C, as shells do in the background.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def end(self, seconds: float = 240) -> tuple[int, str, str]:
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"not done after {seconds:.0f} s; on stderr: {err[-3000:]}") from None
        return self.process.returncode, out, err

    def check(self, seconds: float = 240) -> str:
        code, out, err = self.end(seconds)
        assert code == 0, err[-3000:]
        return out


def storage_bucket(endpoint: str) -> str:
    import s3fs

    name = f"cluster-{os.getpid()}-{time.monotonic_ns()}"
    s3fs.S3FileSystem(endpoint_url=endpoint, key="nobody", secret="nothing").mkdir(name)
    return f"s3://{name}"


@contextlib.contextmanager
def started_cluster(folder: Path, storage: str, workers: int = 3) -> Iterator[Cluster]:
    """Everything started, and everything gone afterwards."""
    cluster = Cluster(folder, storage, workers)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
