"""Reverify: look at a published release again, in a process of its own. Never cached: looking again is the point."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import prefect

from aethernet.hub.reverify import ReverifyFinding, Target
from aethernet.hub.reverify import reverify as look
from aethernet.release.signing import Trust

__all__ = ["reverify"]


@prefect.task(persist_result=False, task_run_name="reverify {target.address}")
def reverify(target: Target, trust: Trust | None, images: list[Path], seconds: float) -> ReverifyFinding:
    """A network that crashes its runtime, or never ends, is a finding about that release alone."""
    finding = isolated(partial(look, target, trust=trust, images=images), seconds)
    return (
        finding
        if isinstance(finding, ReverifyFinding)
        else ReverifyFinding(address=target.address, problems=(finding,))
    )


def isolated(call: Callable[[], object], seconds: float) -> object:
    """What a call returns in a fresh process, or in words how that process ended."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(call, sender), daemon=True)
    process.start()
    sender.close()
    try:
        if receiver.poll(seconds):
            return receiver.recv()
        return f"could not be run: not done after {seconds:.0f} s"
    except EOFError:
        process.join()
        return f"could not be run: the process ended with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()
        receiver.close()


def _answer(call: Callable[[], object], sender: Connection) -> None:
    sender.send(call())
