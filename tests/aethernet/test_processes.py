"""A child process answers, or its end is told from a time-out; nothing it started outlives it or its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from aethernet.processes import ChildProcess, end_process


def double(connection: Connection) -> None:
    connection.send(2 * connection.recv())


def abort(connection: Connection) -> None:
    os.abort()


def hang_with_a_child(connection: Connection) -> None:
    connection.send(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
    time.sleep(600)


def is_running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ends(process_id: int) -> bool:
    until = time.monotonic() + 20
    while is_running(process_id) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_running(process_id)


def test_what_is_sent_is_answered() -> None:
    with ChildProcess(double) as child:
        child.send(21)

        assert child.receive(60) == 42


def test_a_crash_is_an_end_with_its_exit_code() -> None:
    with ChildProcess(abort) as child:
        with pytest.raises(EOFError):
            child.receive(60)

        assert child.exit_code == -signal.SIGABRT


def test_no_answer_in_time_is_a_time_out_and_everything_it_started_ends() -> None:
    with ChildProcess(hang_with_a_child) as child:
        grandchild = child.receive(60)
        assert is_running(grandchild)
        with pytest.raises(TimeoutError):
            child.receive(0.1)

    assert ends(grandchild)


def test_a_child_and_what_it_started_end_when_its_parent_is_killed() -> None:
    code = (
        "from tests.aethernet.test_processes import *\n"
        "if __name__ == '__main__':\n"
        "    with ChildProcess(hang_with_a_child) as child:\n"
        "        print(child.receive(60), flush=True)\n"
        "        time.sleep(600)\n"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        parent.kill()

    assert ends(grandchild)


def test_ending_a_process_that_has_ended_is_no_error() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    process.wait()

    end_process(process)

    assert process.returncode == 0
