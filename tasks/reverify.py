"""Reverify: look at a published release again, in a process of its own. Never cached: looking again is the point."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import prefect

from aethernet.hub.reverify import ReverifyFinding, Target
from aethernet.hub.reverify import reverify as look
from aethernet.processes import ChildProcess
from aethernet.release.signing import Trust

__all__ = ["reverify"]


@prefect.task(persist_result=False, task_run_name="reverify {target.address}")
def reverify(target: Target, trust: Trust | None, images: list[Path], seconds: float) -> ReverifyFinding:
    """A network that crashes its runtime, or never ends, is a finding about that release alone."""
    finding = isolated(partial(look, target, trust=trust, images=images), seconds)
    if isinstance(finding, ReverifyFinding):
        return finding
    return ReverifyFinding(address=target.address, problems=(str(finding),))


def isolated(call: Callable[[], object], seconds: float) -> object:
    """What a call returns in a fresh process, or a sentence about how that process ended."""
    with ChildProcess(partial(_answer, call)) as child:
        try:
            return child.receive(seconds)
        except TimeoutError:
            return f"could not be run: not done after {seconds:.0f} s"
        except EOFError:
            return f"could not be run: the process ended with exit code {child.exit_code}"


def _answer(call: Callable[[], object], connection: Connection) -> None:
    connection.send(call())
