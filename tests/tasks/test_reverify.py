"""A published network that crashes or hangs is a finding about that release, and ends nothing else."""

from __future__ import annotations

import os
import time
from functools import partial

from tasks.reverify import isolated


def test_what_is_returned_comes_back() -> None:
    assert isolated(partial(pow, 2, 5), 60) == 32


def test_crash_is_told() -> None:
    assert isolated(os.abort, 60) == "could not be run: the process ended with exit code -6"


def test_hang_is_ended() -> None:
    start = time.monotonic()

    told = isolated(partial(time.sleep, 600), 2)

    assert told == "could not be run: not done after 2 s"
    assert time.monotonic() - start < 60
