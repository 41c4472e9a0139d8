"""Child processes that lead a group of their own, and end with everything they started.

A terminal sends Ctrl-C to its own group only, so a child here does not get it: the parent does, and ends the child on
its way out. A :class:`ChildProcess` also ends when its parent is killed and can end nothing any more.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

__all__ = ["ChildProcess", "end_process"]


def end_process(process: subprocess.Popen[bytes] | BaseProcess) -> None:
    """Kill a process and its group, and wait until it is gone; it may have ended already.

    Args:
        process: Started with ``start_new_session=True``, or by :class:`ChildProcess`.
    """
    if sys.platform != "win32" and process.pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # it may not lead its group yet
    if isinstance(process, subprocess.Popen):
        process.wait()
    else:
        process.join()


class ChildProcess:
    """A fresh Python process that this one exchanges objects with, from ``__enter__`` to ``__exit__``.

    Args:
        serve: Run there with its end of the connection. It is pickled, so it is a function of a module, or a
            ``functools.partial`` of one.
    """

    def __init__(self, serve: Callable[[Connection], object]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share this process's memory and threads
        self._connection, self._other = context.Pipe()
        self._process = context.Process(target=_lead_group, args=(serve, self._other), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._other.close()
        return self

    def send(self, value: Any) -> None:
        """Hand an object over.

        Raises:
            OSError: The process is gone.
        """
        self._connection.send(value)

    def receive(self, seconds: float | None = None) -> Any:
        """The next object from there.

        Args:
            seconds: How long to wait for it; None waits as long as the process lives.

        Raises:
            TimeoutError: None came in time; the process goes on.
            EOFError: The process ended instead; :attr:`exit_code` says how.
        """
        if seconds is not None and not self._connection.poll(seconds):
            raise TimeoutError(f"no answer within {seconds:g} s")
        try:
            return self._connection.recv()
        except OSError as error:
            raise EOFError(str(error)) from error

    @property
    def exit_code(self) -> int | None:
        """How a process that is ending ended: a negative signal number where one killed it."""
        self._process.join(5)
        return self._process.exitcode

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        end_process(self._process)


def _lead_group(serve: Callable[[Connection], object], connection: Connection) -> None:
    if sys.platform != "win32":
        os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    serve(connection)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    if sys.platform != "win32":
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
