"""Trying a built engine where there is a GPU for it: same pictures, same limits as every other form, and its speed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from aethernet.comparison.cases import Case, build_cases
from aethernet.comparison.gate import Limits, failures_of
from aethernet.comparison.measurement import Measurement
from aethernet.engines.backends import find_gpu
from aethernet.engines.identity import EngineIdentity, EngineSpeed
from aethernet.engines.profiles import Profile

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Trial", "edge_cases", "runs_here", "try_engine"]

_LARGEST_PICTURE = 16 * 1080 * 1920
"""Pixels of input: the reference runs on the CPU, and takes minutes for more."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trial(_Record):
    """What an engine did on a GPU."""

    measurements: tuple[Measurement, ...]
    failures: tuple[str, ...] = Field(description="Every limit it misses; it is released only with none")
    speeds: tuple[EngineSpeed, ...]


def runs_here(identity: EngineIdentity) -> bool:
    """Whether there is a GPU that the engine was built for."""
    gpu = find_gpu()
    targets = identity.capabilities or ((identity.gpu.capability,) if identity.gpu else ())
    return gpu is not None and gpu.capability in targets


def edge_cases(profiles: Sequence[Profile], pictures: Mapping[str, Path], channels: int) -> list[Case]:
    """Pictures at every profile's smallest, best and largest shape, and the usual cases that lie inside one."""
    cases = [
        case
        for case in build_cases(pictures, channels)
        if any(profile.holds((case.input.shape[0], *case.input.shape[2:])) for profile in profiles)
    ]
    for profile in profiles:
        for kind in ("minimum", "optimum", "maximum"):
            batch, height, width = getattr(profile, kind)
            if batch * height * width > _LARGEST_PICTURE:
                continue
            first = build_cases(pictures, channels, static=(height, width))[0]
            name = f"{profile.name} {kind} {batch}x{height}x{width}"
            repeated = np.repeat(first.input, batch, axis=0)
            cases.append(Case(name=name, picture=first.picture, input=repeated, window=None))
    return cases


def try_engine(
    engine: Path, name: str, reference: nn.Module, pictures: Mapping[str, Path], channels: int, limits: Limits
) -> Trial:
    """Run an engine beside the training-form network and time it.

    Args:
        engine: With its identity beside it.
        name: What measurements call it.
        reference: The training-form float32 network.
        pictures: Name -> file.
        channels: Channels the network takes.
        limits: Of its precision.

    Raises:
        EngineError: It does not fit this machine, or cannot be run.
    """
    from aethernet.comparison import FormId, compare_form, outputs_of
    from aethernet.engines.process import gpu_lock
    from aethernet.runtimes.pytorch import TorchRuntime
    from aethernet.runtimes.tensorrt import EngineRuntime

    runtime = EngineRuntime(engine)
    identity, gpu = runtime.record.identity, find_gpu()
    cases = edge_cases(identity.profiles, pictures, channels)
    truth = outputs_of(TorchRuntime(reference), cases)
    form = FormId(precision=identity.precision, file=name, runtime=runtime.name)
    with gpu_lock(gpu):
        measurements, _ = compare_form(form, runtime, truth, cases)
        speeds = []
        for profile in identity.profiles:
            batch, height, width = profile.optimum
            shape = (batch, channels, height, width)
            told = runtime.time(shape)
            latencies = told["latencies_ms"]
            speeds.append(
                EngineSpeed(
                    shape=shape,
                    median_ms=statistics.median(latencies),
                    fastest_ms=min(latencies),
                    slowest_ms=max(latencies),
                    pictures_per_second=told["per_second"],
                    warm_up=10,
                    runs=len(latencies),
                    gpu=gpu.name if gpu else "",
                    driver=gpu.driver if gpu else "",
                )
            )
    failures = [f"{item.case}: {failure}" for item in measurements for failure in failures_of(item, limits)]
    return Trial(measurements=tuple(measurements), failures=tuple(failures), speeds=tuple(speeds))
