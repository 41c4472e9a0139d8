"""Runs :mod:`aethernet.engines.worker` in a process of its own, and reads its answer or how it failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aethernet.engines import worker
from aethernet.engines.backends import Backend, Gpu
from aethernet.errors import BuilderError
from aethernet.processes import end_process

__all__ = ["gpu_lock", "run_worker", "start_worker"]

_LOG_TAIL = 4000


def start_worker(request: Mapping[str, Any], folder: Path, *, talks: bool = False) -> subprocess.Popen[bytes]:
    """Start a worker in ``folder``, in a process group of its own.

    Args:
        request: What it is to do.
        folder: Takes the request, the answer, and ``log`` with all its words.
        talks: It speaks over stdin and stdout.
    """
    path = folder / "request.json"
    path.write_text(json.dumps({**request, "answer": str(folder / "answer.json")}), encoding="utf-8")
    environment = {
        **os.environ,
        "POLYGRAPHY_USE_TENSORRT_RTX": "1" if request["backend"] == Backend.TENSORRT_RTX else "0",
        # The worker's folder is not the caller's, and this package may be a checkout found through it.
        "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
    }
    with open(folder / "log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", worker.__name__, str(path)],
            cwd=folder,
            env=environment,
            start_new_session=True,
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else log,
            stderr=log,
        )


def run_worker(request: Mapping[str, Any], folder: Path, *, timeout: float) -> dict[str, Any]:
    """Run a worker to its end and return its answer.

    Raises:
        BuilderError: It refused, crashed, was killed, or took longer than ``timeout`` seconds; with its log.
    """
    process = start_worker(request, folder)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired as error:
        raise BuilderError(
            f"expected the {_label(request)} builder to end within {timeout:g} s, it did not and was stopped",
            log=_log(folder),
            hint="raise the timeout, or ask for fewer profiles or capabilities",
        ) from error
    finally:
        end_process(process)
    try:
        answer: dict[str, Any] = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuilderError(
            f"the {_label(request)} builder crashed: {_ending(code)}", log=_log(folder), hint=_hint(folder)
        ) from error
    if "error" in answer:
        reported = [item["text"] for item in answer.get("messages", []) if item["severity"] == "error"]
        raise BuilderError(
            f"{_label(request)} refused: {(reported or [answer['error']])[0]}",
            log=_log(folder),
            hint="the log has the rest",
        )
    return answer


def _label(request: Mapping[str, Any]) -> str:
    return Backend(request["backend"]).label


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "it was killed, most likely because memory ran out"
    return signal.strsignal(-code) or f"signal {-code}" if code < 0 else f"exit code {code}"


def _hint(folder: Path) -> str:
    lines = _log(folder).strip().splitlines()
    return f"its last words: {lines[-1]}" if lines else "it said nothing"


def _log(folder: Path) -> str:
    try:
        return (folder / "log").read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace")
    except OSError:
        return ""


@contextmanager
def gpu_lock(gpu: Gpu | None) -> Iterator[None]:
    """Only one build or measurement at a time on one GPU, over all processes of this user; without a GPU no waiting."""
    if gpu is None:
        yield
        return
    import fcntl

    # Shared by every store and checkout, so it cannot lie in any of them.
    folder = Path(tempfile.gettempdir()) / f"aethernet-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with open(folder / f"gpu-{gpu.uuid or 'one'}.lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
