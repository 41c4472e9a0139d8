"""Ctrl-C and SIGTERM: a line, an exit code, nothing left; also inside one long call, and twice."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import time

import psutil
import pytest

from aethernet.cli.interruption import interruptible, stopped

_COMMAND = """
import hashlib, subprocess, sys, time
from aethernet.cli.application import add_commands, make_app

def waiting():
    "Waits in Python; with a child in a session of its own."
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("begun", child.pid, flush=True)
    time.sleep(600)

def computing():
    "Is in one call into C, which lets other threads run and sees no signal; with a child in a session of its own."
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("begun", child.pid, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

app = make_app("For a test.")
add_commands(app, waiting, computing)
app(prog_name="test")
"""
_LINE = "stopped; nothing was changed; the same command starts again\n"


def _started(command: str) -> tuple[subprocess.Popen[str], list[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in a script's background Ctrl-C is ignored, which a command would keep to.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_says_one_line_and_which_signal_it_was_and_leaves_no_child(
    ending: signal.Signals, code: int
) -> None:
    process, (_, child) = _started("waiting")
    with process:
        process.send_signal(ending)
        _, told = process.communicate(timeout=60)

    assert (process.returncode, told) == (code, _LINE)
    assert _is_gone(int(child))


def test_inside_a_call_into_c_it_ends_soon_and_its_children_with_it() -> None:
    process, (_, child) = _started("computing")
    with process:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)

    assert (process.returncode, told) == (143, _LINE)
    assert _is_gone(int(child))


def test_a_second_ctrl_c_ends_at_once() -> None:
    process, (_, child) = _started("computing")
    with process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two signals of one kind that wait together are one
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)

    assert (process.returncode, told) == (130, _LINE)
    assert _is_gone(int(child))


def _is_gone(process: int) -> bool:
    """Killed, and perhaps not yet noticed by whoever inherited it."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_what_ran_before_the_command_is_left_alone() -> None:
    earlier = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        time.sleep(2.5)  # beyond what a process's start is known to
        with interruptible():
            stopped()
        assert earlier.poll() is None
    finally:
        earlier.kill()
        earlier.wait()
