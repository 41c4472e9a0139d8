"""How forms are timed; never how fast they are."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from aethernet.benchmark.timing import measure_speed, measure_speedup
from aethernet.precision import Precision
from tests.support.runtimes import FunctionRuntime

PICTURE = np.zeros((2, 3, 5, 7), dtype=np.float32)


def test_runtimes_take_turns_and_are_open_together() -> None:
    record: list[str] = []
    runtimes = [FunctionRuntime(name=name, record=record) for name in ("first", "second")]

    measure_speed([(runtime.name, Precision.FP32, runtime) for runtime in runtimes], PICTURE, runs=2)

    assert record == [
        *("first opens", "second opens"),
        *("first runs", "second runs") * 3,  # the first turn is not counted
        *("second closes", "first closes"),
    ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves it."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def runtime_that_takes(clock: list[float], *seconds: float) -> FunctionRuntime:
    taken = itertools.chain(seconds)

    def run(picture: np.ndarray) -> np.ndarray:
        clock[0] += next(taken)
        return picture

    return FunctionRuntime(run, name="timed")


def test_warm_up_is_not_counted_and_the_rest_is_summarised(clock: list[float]) -> None:
    runtime = runtime_that_takes(clock, 100, 0.004, 0.001, 0.002)

    run = measure_speed([("a", Precision.FP32, runtime)], PICTURE, runs=3)

    (speed,) = run.speeds
    assert (speed.median_ms, speed.fastest_ms, speed.slowest_ms) == (2, 1, 4)
    assert speed.ratio == 1


def test_ratio_is_times_faster_than_the_first(clock: list[float]) -> None:
    contestants = [
        ("training form", Precision.FP32, runtime_that_takes(clock, 9, 0.008, 0.008, 0.008)),
        ("faster", Precision.FP16, runtime_that_takes(clock, 9, 0.002, 0.002, 0.002)),
        ("slower", Precision.FP32, runtime_that_takes(clock, 9, 0.016, 0.016, 0.016)),
    ]

    run = measure_speed(contestants, PICTURE, runs=3)

    assert [(speed.form, speed.precision, speed.ratio) for speed in run.speeds] == [
        ("training form", Precision.FP32, 1),
        ("faster", Precision.FP16, 4),
        ("slower", Precision.FP32, 0.5),
    ]


def test_a_race_is_decided_by_the_fastest_runs_in_turns_without_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: now[0])
    baseline, challenger = runtime_that_takes(now, 1, 9, 8, 90), runtime_that_takes(now, 1, 5, 2, 70)

    assert measure_speedup(baseline, challenger, PICTURE, runs=3) == 4


def test_sleeping_takes_no_processor_time() -> None:
    def compute(picture: np.ndarray) -> np.ndarray:
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            pass
        return picture

    def compute_and_wait(picture: np.ndarray) -> np.ndarray:
        time.sleep(0.05)
        return compute(picture)

    assert (
        measure_speedup(FunctionRuntime(compute), FunctionRuntime(compute_and_wait), PICTURE) > 0.2
    )  # by the wall's clock 0.04


def test_conditions_are_recorded_with_the_speeds() -> None:
    run = measure_speed([("a", Precision.FP32, FunctionRuntime(name="fake"))], PICTURE, runs=1)

    assert (run.shape, run.runs) == ((2, 3, 5, 7), 1)
    assert run.threads >= 1
    assert run.speeds[0].runtime == "fake"


def test_runtimes_are_closed_when_one_fails() -> None:
    def fail(picture: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory")

    record: list[str] = []
    first, second = FunctionRuntime(name="first", record=record), FunctionRuntime(fail, name="second", record=record)

    with pytest.raises(RuntimeError, match="out of memory"):
        measure_speed([("a", Precision.FP32, first), ("b", Precision.FP32, second)], PICTURE)

    assert record[-2:] == ["second closes", "first closes"]
