"""Speed of several forms, interleaved in one run: only ratios of one run mean anything on a shared machine.

:func:`measure_speed` times forms within this process, for a release's own record. :mod:`~aethernet.benchmark.run`
gives each form a process of its own, for memory and load time as well. Both time in one way, here.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from aethernet.precision import Precision
from aethernet.release.manifest import Speed, SpeedRun
from aethernet.runtimes.protocol import Runtime

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["TimedRuntime", "measure_speed", "measure_speedup", "run_once", "take_turns"]

TimedRuntime = tuple[str, Precision, Runtime]
"""Name, precision, how to run it."""


def run_once(runtime: Runtime, picture: ImageArray) -> float:
    """Milliseconds of one run on [N, C, H, W]."""
    start = time.perf_counter()
    runtime.infer(picture)
    return (time.perf_counter() - start) * 1000


def take_turns(
    timers: Sequence[Callable[[], float]], runs: int, after: Callable[[int], None] = lambda _: None
) -> list[list[float]]:
    """Let each run once, ``runs`` times over, so that the machine's mood hits all alike; times of each.

    Args:
        timers: Each runs once and returns milliseconds.
        runs: How many times over.
        after: Told the number of finished turns after each.
    """
    turns = []
    for turn in range(runs):
        turns.append([timer() for timer in timers])
        after(turn + 1)
    return [list(times) for times in zip(*turns, strict=True)]


def measure_speedup(baseline: Runtime, challenger: Runtime, picture: ImageArray, *, runs: int = 15) -> float:
    """How many times less processor time the challenger takes, by the fastest runs of one interleaved run.

    Both must compute in the calling thread. Its processor time does not count what else the machine does, and what
    still disturbs (a shared cache, another thread on the same core) only ever makes a run longer: a release must hang
    on neither. One pair of files on a shared machine: 1.05 to 1.19 by the wall clock, 1.02 to 1.26 by the median
    processor time of 7 runs, 1.13 to 1.19 by the fastest of 15.

    Args:
        baseline: Opened for one thread.
        challenger: The same.
        picture: [N, C, H, W] float32 in [0, 1].
        runs: Counted runs of each, after one that is not counted.
    """

    def timer(runtime: Runtime) -> float:
        start = time.thread_time()
        runtime.infer(picture)
        return time.thread_time() - start

    with baseline, challenger:
        timers = [partial(timer, runtime) for runtime in (baseline, challenger)]
        take_turns(timers, 1)
        ours, theirs = take_turns(timers, runs)
    return min(ours) / min(theirs)


def measure_speed(contestants: Sequence[TimedRuntime], picture: ImageArray, *, runs: int = 5) -> SpeedRun:
    """Latency of each contestant; the first is what the others' ratios refer to.

    Args:
        contestants: All are loaded at once and run in turn.
        picture: [N, C, H, W] float32 in [0, 1].
        runs: Counted runs of each, after one that is not counted.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(runtime) for _, _, runtime in contestants]
        timers = [lambda runtime=runtime: run_once(runtime, picture) for runtime in opened]
        take_turns(timers, 1)
        times = take_turns(timers, runs)
    baseline = statistics.median(times[0])
    speeds = tuple(
        Speed(
            form=name,
            precision=precision,
            runtime=runtime.name,
            median_ms=round(statistics.median(taken), 3),
            fastest_ms=round(min(taken), 3),
            slowest_ms=round(max(taken), 3),
            ratio=round(baseline / statistics.median(taken), 3),
        )
        for (name, precision, runtime), taken in zip(contestants, times, strict=True)
    )
    batch, channels, height, width = picture.shape
    return SpeedRun(shape=(batch, channels, height, width), runs=runs, threads=os.cpu_count() or 1, speeds=speeds)
