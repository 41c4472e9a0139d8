"""Speed of several forms, interleaved in one run: only ratios of one run mean anything on a shared machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aethernet.manifest import Speed, SpeedRun
from aethernet.precision import Precision
from aethernet.runtimes import Runtime

if TYPE_CHECKING:
    from aethernet.pictures import Picture

__all__ = ["Contestant", "measure_speed"]

Contestant = tuple[str, Precision, Runtime]
"""Name, precision, how to run it."""


def measure_speed(contestants: Sequence[Contestant], picture: Picture, *, runs: int = 5) -> SpeedRun:
    """Latency of each contestant; the first is what the others' ratios refer to.

    Args:
        contestants: All are loaded at once and run in turn, so that the machine's mood hits all alike.
        picture: [N, C, H, W] float32 in [0, 1].
        runs: Counted runs of each, after one that is not counted.
    """
    times: list[list[float]] = [[] for _ in contestants]
    with ExitStack() as stack:
        opened = [stack.enter_context(runtime) for _, _, runtime in contestants]
        for turn in range(runs + 1):
            for place, runtime in enumerate(opened):
                start = time.perf_counter()
                runtime.infer(picture)
                if turn:
                    times[place].append((time.perf_counter() - start) * 1000)
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
