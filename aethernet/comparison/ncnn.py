"""The gate for the ncnn files: on the CPU in fp32 and through Vulkan in fp16, against the trained network.

They are judged as every other file is, on the same inputs; through a driver that computes on the CPU, on the small ones
only, because it takes seconds for what a card does in a millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from aethernet.comparison.cases import Case
from aethernet.comparison.compare import compare_form
from aethernet.comparison.gate import failures_of, limits_for
from aethernet.comparison.measurement import Measurement, VariantId
from aethernet.errors import ExportError
from aethernet.graphs.ncnn import read_param
from aethernet.precision import Precision
from aethernet.runtimes.ncnn import NcnnRuntime, vulkan_devices

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["NcnnTrial", "try_ncnn"]

_SMALL = 1600
"""Most pixels of an input that a software driver is given."""


class NcnnTrial(BaseModel):
    """What the ncnn files computed here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measurements: tuple[Measurement, ...]
    device: str | None
    """The Vulkan device; None where there is none."""
    software: bool
    """Whether that device is a driver that computes on the CPU."""
    failures: tuple[str, ...]
    """Every limit that was missed, in words."""


_BLOBS = ("data", "output")
"""Input and output that programs ask for by name; our own runtime takes them from the file."""


def _wrong_ends(param: Path) -> list[str]:
    try:
        model = read_param(param)
    except ExportError as error:
        return [str(error)]
    found = (*model.inputs, *model.outputs)
    return [] if found == _BLOBS else [f"expected the blobs {' and '.join(_BLOBS)}, found {', '.join(found)}"]


def try_ncnn(
    param: Path, truth: Mapping[str, ImageArray], cases: Sequence[Case], *, half: bool = True, name: str | None = None
) -> NcnnTrial:
    """Run the files on the CPU and, where there is a device, through Vulkan; bad numbers never raise.

    Args:
        param: The parameter file; the weights lie beside it.
        truth: Case -> what the training-form float32 network gives, [N, C, s*H, s*W].
        cases: Inputs.
        half: Whether the files hold fp16 kernels.
        name: What measurements call the file.
    """
    precision = Precision.FP16 if half else Precision.FP32
    device = min(vulkan_devices(), key=lambda one: (one.software, one.index), default=None)
    runs: list[tuple[NcnnRuntime, list[Case]]] = [(NcnnRuntime(param), list(cases))]
    if device is not None:
        small = [case for case in cases if not device.software or case.input[:, 0].size <= _SMALL]
        runs.append((NcnnRuntime(param, vulkan=True), small))
    measurements: list[Measurement] = []
    failures = _wrong_ends(param)
    for runtime, inputs in runs:
        variant = VariantId(precision=precision, file=name or param.name, runtime=runtime.name)
        measured, _ = compare_form(variant, runtime, truth, inputs)
        measurements += measured
        for one in measured:
            failures += [f"{one.form} on {one.case}: {missed}" for missed in failures_of(one, limits_for(one, {}))]
    return NcnnTrial(
        measurements=tuple(measurements),
        device=None if device is None else device.name,
        software=device is not None and device.software,
        failures=tuple(failures),
    )
