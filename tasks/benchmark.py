"""Benchmark: how fast each form runs here, beside the training form in PyTorch, in one run."""

from __future__ import annotations

from pydantic import BaseModel

from aethernet.artifact import Artifact
from aethernet.benchmark import measure_speed
from aethernet.checkpoint import load
from aethernet.comparison import build_cases
from aethernet.manifest import SpeedRun
from aethernet.precision import Precision
from aethernet.runtimes import open_runtime
from aethernet.runtimes.pytorch import TorchRuntime
from tasks._caching import current_store, stage
from tasks.fetch import Picture

__all__ = ["Contender", "benchmark", "race"]

_SIDE = 128
_RACE_SIDE, _RACE_RUNS = 256, 5
"""Smaller pictures make int8 look slower than it is at work: reordering and thread hand-overs do not shrink along."""


class Contender(BaseModel):
    """A released file to time."""

    file: Artifact
    precision: Precision


@stage(host_matters=True)
def benchmark(reference: Artifact, contenders: list[Contender], pictures: list[Picture]) -> SpeedRun:
    """Latency on a 128x128 picture, the smallest at which small kernels and start-up no longer dominate."""
    store = current_store()
    network = load(store.get(reference))
    case = build_cases(
        {pictures[0].name: store.get(pictures[0].low)}, network.config.in_channels, static=(_SIDE, _SIDE)
    )[0]
    baseline = (f"{reference.name}, unfused", Precision.FP32, TorchRuntime(network.model))
    others = [(one.file.name, one.precision, open_runtime(store.get(one.file))) for one in contenders]
    return measure_speed([baseline, *others], case.input)


@stage(host_matters=True)
def race(fp32: Artifact, int8: Artifact, channels: int, pictures: list[Picture]) -> float:
    """How many times faster int8 is than fp32 in ONNX Runtime, in one interleaved run.

    By the fastest of each, which other work on the machine disturbed least: a release must not hang on that.
    """
    store = current_store()
    case = build_cases({pictures[0].name: store.get(pictures[0].low)}, channels, static=(_RACE_SIDE, _RACE_SIDE))[0]
    contestants = [
        (fp32.name, Precision.FP32, open_runtime(store.get(fp32))),
        (int8.name, Precision.INT8, open_runtime(store.get(int8))),
    ]
    floats, integers = measure_speed(contestants, case.input, runs=_RACE_RUNS).speeds
    return round(floats.fastest_ms / integers.fastest_ms, 3)
