"""Benchmark: how fast each form runs here, beside the training form in PyTorch, in one run."""

from __future__ import annotations

from pydantic import BaseModel

import aethernet.benchmark.timing as library
from aethernet.artifact import Artifact
from aethernet.checkpoint import load
from aethernet.comparison import Case, build_cases
from aethernet.precision import Precision
from aethernet.release.manifest import SpeedRun
from aethernet.runtimes.opening import open_runtime
from aethernet.runtimes.pytorch import TorchRuntime
from tasks.caching import current_store, stage
from tasks.fetch import ValidationImage

__all__ = ["BenchmarkFile", "benchmark", "measure_speedup"]

_SIDE = 128


class BenchmarkFile(BaseModel):
    """A released file to time."""

    file: Artifact
    precision: Precision


@stage(host_matters=True)
def benchmark(
    reference: Artifact,
    contenders: list[BenchmarkFile],
    pictures: list[ValidationImage],
    static: tuple[int, int] | None = None,
) -> SpeedRun:
    """Latency on a 128x128 picture, the smallest at which small kernels and start-up no longer dominate; or on one of
    the only size the files take.
    """
    store = current_store()
    network = load(store.get(reference))
    case = _case(pictures, network.config.in_channels, static)
    baseline = (f"{reference.name}, unfused", Precision.FP32, TorchRuntime(network.model))
    others = [(one.file.name, one.precision, open_runtime(store.get(one.file))) for one in contenders]
    return library.measure_speed([baseline, *others], case.input)


@stage(host_matters=True)
def measure_speedup(
    fp32: Artifact,
    int8: Artifact,
    channels: int,
    pictures: list[ValidationImage],
    static: tuple[int, int] | None = None,
) -> float:
    """How many times less processor time int8 takes than fp32 in ONNX Runtime."""
    store = current_store()
    case = _case(pictures, channels, static)
    floats, integers = (open_runtime(store.get(one), threads=1) for one in (fp32, int8))
    return round(library.measure_speedup(floats, integers, case.input), 3)


def _case(pictures: list[ValidationImage], channels: int, static: tuple[int, int] | None) -> Case:
    low = {pictures[0].name: current_store().get(pictures[0].low)}
    return build_cases(low, channels, static=static or (_SIDE, _SIDE))[0]
