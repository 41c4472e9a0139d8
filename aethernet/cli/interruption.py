"""Ctrl-C and SIGTERM: one line that says what is saved and how to go on, within seconds, and no process left.

Python hands a signal to code only between two of its own instructions, and a network may compute for minutes in one
call. So a thread hears of the signal, too (``signal.set_wakeup_fd``): it waits for the command to end in order, and
ends the process itself when that takes too long or when somebody presses Ctrl-C again.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["Terminated", "exit_code", "interruptible", "keeps", "stopped"]

GRACE_S = 4.0
"""How long a command may take to end in order."""
_CLOCK_S = 1.0
"""A process's start is known to the clock tick, and relative to a boot time that is rounded to a second."""

_NOTHING = "nothing was changed; the same command starts again"

_saved = _NOTHING
_first: int | None = None
_told = threading.Event()


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does."""


def keeps(words: str) -> None:
    """Say what an interruption of this command leaves, and how to go on; shown behind "stopped; "."""
    global _saved
    _saved = words


def stopped() -> str:
    """The line for somebody who interrupted the command; whoever asks for it shows it."""
    _told.set()
    return f"stopped; {_saved}"


def exit_code(error: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
    if isinstance(error, Terminated):
        return 128 + signal.SIGTERM
    return 128 + (_first or signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let both signals end the block with :class:`KeyboardInterrupt`, or the process soon afterwards.

    Does nothing outside the main thread, where Python allows no handlers. A signal that is ignored (a job in the
    background of a script) stays ignored.
    """
    global _first
    keeps(_NOTHING)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _first = None
    _told.clear()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: _terminate,
    }
    hearing, told = socket.socketpair()
    told.setblocking(False)
    wakeup = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    begun = time.time()
    listener = threading.Thread(target=_listen, args=(hearing, begun), daemon=True)
    try:
        for number, handler in ours.items():
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, handler)
        listener.start()
        yield
    finally:
        if _told.is_set():
            _end_children(begun)  # what the command did not end on its way here
        for number, earlier in before.items():
            signal.signal(number, earlier)
        signal.set_wakeup_fd(wakeup)
        told.close()  # ends the listener
        listener.join()
        hearing.close()


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _listen(hearing: socket.socket, begun: float) -> None:
    global _first
    until: float | None = None
    while True:
        hearing.settimeout(None if until is None else max(0.0, until - time.monotonic()))
        try:
            heard = hearing.recv(1)
        except (TimeoutError, BlockingIOError):
            _end(begun)
        if not heard:
            return
        if heard[0] not in (signal.SIGINT, signal.SIGTERM):
            continue
        if until is None:
            _first, until = heard[0], time.monotonic() + GRACE_S
        elif heard[0] == signal.SIGINT:  # somebody who does not want to wait; Prefect repeats a SIGTERM
            _end(begun)


def _end(begun: float) -> None:
    """End this process and all it started, whatever they are doing."""
    if not _told.is_set():
        with suppress(OSError):
            os.write(2, f"{stopped()}\n".encode())
    _end_children(begun)
    os._exit(128 + (_first or signal.SIGINT))


def _end_children(begun: float) -> None:
    """Kill what this process started since then, and what those started, also in sessions of their own."""
    import psutil

    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if child.create_time() >= begun - _CLOCK_S:
                    child.kill()
