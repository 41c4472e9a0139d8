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


def run_once(runtime: Runtime, image: ImageArray) -> float:
    """Milliseconds of one run on [N, C, H, W]."""
    start = time.perf_counter()
    runtime.infer(image)
    return (time.perf_counter() - start) * 1000


def take_turns(
    timers: Sequence[Callable[[], float]],
    runs: int,
    after: Callable[[int], None] = lambda _: None,
    enough: Callable[[list[list[float]]], bool] = lambda _: False,
) -> list[list[float]]:
    """Let each run once, ``runs`` times over, so that the machine's mood hits all alike; times of each.

    Args:
        timers: Each runs once and returns milliseconds.
        runs: How many times over.
        after: Called with the number of finished turns after each.
        enough: Given the times so far, turn by turn, whether more would tell nothing new.
    """
    turns: list[list[float]] = []
    for turn in range(runs):
        turns.append([timer() for timer in timers])
        after(turn + 1)
        if enough(turns):
            break
    return [list(times) for times in zip(*turns, strict=True)]


def measure_speedup(baseline: Runtime, challenger: Runtime, image: ImageArray, *, runs: int = 15) -> float:
    """How many times less processor time the challenger takes, by the fastest runs of one interleaved run.

    Both must compute in the calling thread. Its processor time does not count what else the machine does, and what
    still disturbs (a shared cache, another thread on the same core) only ever makes a run longer: a release must hang
    on neither. One pair of files on a shared machine: 1.05 to 1.19 by the wall clock, 1.02 to 1.26 by the median
    processor time of 7 runs, 1.13 to 1.19 by the fastest of 15.

    Args:
        baseline: Opened for one thread.
        challenger: The same.
        image: [N, C, H, W] float32 in [0, 1].
        runs: Counted runs of each at most, after one that is not counted; fewer once neither becomes faster.
    """

    def timer(runtime: Runtime) -> float:
        start = time.thread_time()
        runtime.infer(image)
        return time.thread_time() - start

    with baseline, challenger:
        timers = [partial(timer, runtime) for runtime in (baseline, challenger)]
        take_turns(timers, 1)
        ours, theirs = take_turns(timers, runs, enough=_fastest_found)
    return min(ours) / min(theirs)


def _fastest_found(turns: Sequence[Sequence[float]]) -> bool:
    """Whether the last four turns brought no run that is more than one per cent faster than any before."""
    if len(turns) < 6:
        return False
    return all(min(taken[:-4]) <= 1.01 * min(taken) for taken in zip(*turns, strict=True))


def measure_speed(
    candidates: Sequence[TimedRuntime], image: ImageArray, *, runs: int = 5, seconds: float = 8.0
) -> SpeedRun:
    """Latency of each candidate; the first is what the others' ratios refer to.

    Args:
        candidates: All are loaded at once and run in turn.
        image: [N, C, H, W] float32 in [0, 1].
        runs: Counted runs of each at most, after one that is not counted.
        seconds: After this time no further turn begins, if there were three: a slow network needs no more of them.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(runtime) for _, _, runtime in candidates]
        timers = [lambda runtime=runtime: run_once(runtime, image) for runtime in opened]
        take_turns(timers, 1)
        start = time.perf_counter()
        times = take_turns(timers, runs, enough=lambda done: len(done) >= 3 and time.perf_counter() - start > seconds)
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
        for (name, precision, runtime), taken in zip(candidates, times, strict=True)
    )
    batch, channels, height, width = image.shape
    return SpeedRun(
        shape=(batch, channels, height, width), runs=len(times[0]), threads=os.cpu_count() or 1, speeds=speeds
    )
