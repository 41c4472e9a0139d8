"""Compare and accept: measure every form against the reference, then judge once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from aethernet.artifact import Artifact
from aethernet.checkpoint import hold_same_tensors, load
from aethernet.comparison import (
    Acceptance,
    Case,
    Limits,
    Measurement,
    Quality,
    VariantId,
    bicubic,
    build_cases,
    compare_form,
    judge,
    measure_quality,
    outputs_of,
    telling_cases,
    with_agreement,
)
from aethernet.precision import Precision
from aethernet.runtimes.opening import open_runtime
from aethernet.runtimes.pytorch import TorchRuntime
from tasks.caching import current_store, stage
from tasks.fetch import ValidationImage

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["Compared", "Reference", "accept", "cases_of", "compare", "run_reference"]


_SLOW_PIXELS = 64 * 64
"""Input pixels of a crop that TensorRT's int8 file is run on in ONNX Runtime, at 30 times the usual time for each."""


class Reference(BaseModel):
    """What the training form makes of every case, and the baselines against HR."""

    outputs: Artifact
    scale: int
    channels: int
    static: tuple[int, int] | None = None
    """The only (H, W) that forms take, where there is one."""
    quality: list[Quality]


class Compared(BaseModel):
    """One form's numbers."""

    measurements: list[Measurement]
    quality: list[Quality]


def cases_of(images: list[ValidationImage], channels: int, static: tuple[int, int] | None) -> list[Case]:
    """What every form is compared on."""
    store = current_store()
    return build_cases({image.name: store.get(image.low) for image in images}, channels, static=static)


def _high(images: list[ValidationImage]) -> dict[str, Path]:
    store = current_store()
    return {image.name: store.get(image.high) for image in images if image.high is not None}


@stage(host_matters=True)
def run_reference(
    reference: Artifact, images: list[ValidationImage], static: tuple[int, int] | None = None
) -> Reference:
    """Run the training-form float32 network once on every case; all forms are held against these outputs."""
    from safetensors.numpy import save_file

    store = current_store()
    network = load(store.get(reference))
    scale, channels = network.config.scale, network.config.in_channels
    cases = cases_of(images, channels, static)
    outputs = outputs_of(TorchRuntime(network.model), cases)
    enlarged = {case.name: bicubic(case.input, scale) for case in cases if case.window is not None}
    with store.scratch() as folder:
        save_file(outputs, folder / "reference.safetensors")
        return Reference(
            outputs=store.put(folder / "reference.safetensors"),
            scale=scale,
            channels=channels,
            static=static,
            quality=[
                *measure_quality("reference", outputs, cases, _high(images), scale),
                *measure_quality("bicubic", enlarged, cases, _high(images), scale),
            ],
        )


@stage(host_matters=True)
def compare(
    precision: Precision, files: list[Artifact], reference: Reference, images: list[ValidationImage]
) -> Compared:
    """Run released files of one precision and measure them; bad numbers are numbers, not errors.

    ONNX Runtime's file is run on every case. The others are the same network in other files, so they are run on the
    cases that tell them apart (:func:`~aethernet.comparison.telling_cases`); TensorRT's int8 file, which ONNX Runtime
    has no fast kernels for, on those with few pixels. Several files that hold the very same tensors are run once, and
    the numbers are those of each.
    """
    from safetensors.numpy import load_file

    store = current_store()
    cases, truth = cases_of(images, reference.channels, reference.static), load_file(store.get(reference.outputs))
    found = Compared(measurements=[], quality=[])
    weights = [file for file in files if not file.name.endswith(".onnx")]
    alike = hold_same_tensors([store.get(file) for file in weights])
    runs = [[file] for file in files if file not in weights]
    runs += ([weights] if weights and alike else []) or [[file] for file in weights]
    first: dict[str, ImageArray] = {}
    for same in runs:
        runtime = open_runtime(store.get(same[0]))
        form = VariantId(precision=precision, file=same[0].name, runtime=runtime.name)
        chosen = _chosen(same[0], cases)
        measurements, outputs = compare_form(form, runtime, truth, chosen)
        first = first or outputs
        if precision is Precision.INT8:
            # All files of this precision are one grid, so they must agree with each other far better than with fp32.
            measurements = [with_agreement(item, outputs, first) for item in measurements]
        for file in same:
            own = form.model_copy(update={"file": file.name})
            found.measurements.extend(item.model_copy(update={"form": own}) for item in measurements)
            quality = measure_quality(file.name, outputs, chosen, _high(images), reference.scale, precision)
            found.quality.extend(quality)
    return found


def _chosen(file: Artifact, cases: list[Case]) -> list[Case]:
    if not file.name.endswith(".onnx"):
        return telling_cases(cases)
    return telling_cases(cases, most_pixels=_SLOW_PIXELS) if file.name.endswith("_int8_trt.onnx") else cases


@stage(quick=True)
def accept(
    compared: list[Compared],
    baselines: list[Quality],
    limits: dict[Precision, Limits],
    required: tuple[Precision, ...],
    not_made: dict[Precision, str],
    speedups: dict[Precision, float],
) -> Acceptance:
    """The gate: every form, image and size at once."""
    measurements = [item for one in compared for item in one.measurements]
    quality = [*baselines, *(item for one in compared for item in one.quality)]
    return judge(measurements, quality, limits, required=required, not_made=not_made, speedups=speedups)
