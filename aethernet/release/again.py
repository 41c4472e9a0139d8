"""Measuring a finished release again, from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aethernet.comparison.cases import Case, build_cases
from aethernet.comparison.compare import bicubic, compare_form, measure_quality, outputs_of
from aethernet.comparison.measurement import Measurement, Quality, VariantId
from aethernet.errors import BundleError
from aethernet.runtimes.opening import runtimes_here

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray
    from aethernet.release.bundle import Bundle
    from aethernet.release.manifest import FileEntry

__all__ = ["Remeasured", "compare_again"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remeasured:
    """What a release measures here and now."""

    measurements: tuple[Measurement, ...]
    quality: tuple[Quality, ...]
    cases: tuple[Case, ...]
    outputs: Mapping[str, Mapping[str, ImageArray]]
    """Path in the release, ``reference`` or ``bicubic`` -> case -> [N, C, s*H, s*W]."""


def compare_again(bundle: Bundle, images: Mapping[str, Path], partners: Mapping[str, Path]) -> Remeasured:
    """Run every form of a release that runs here beside its own reference weights; bad numbers never raise.

    Args:
        bundle: A release whose files were verified.
        images: Name -> low-resolution image.
        partners: Name -> its high-resolution partner, where there is one.

    Raises:
        BundleError: The release has no reference weights.
        CheckpointError: They cannot be loaded.
        ComparisonError: A partner is not of the size that the network's scale gives.
    """
    from aethernet.checkpoint import load
    from aethernet.networks.config import describe
    from aethernet.runtimes.opening import open_runtime
    from aethernet.runtimes.pytorch import TorchRuntime

    manifest = bundle.manifest
    reference = manifest.reference
    if reference is None:
        raise BundleError("the release has no reference weights")
    network = load(bundle.path(reference))
    scale = network.config.scale
    cases = build_cases(images, network.config.in_channels, static=describe(manifest.network.config).size.fixed)
    truth = outputs_of(TorchRuntime(network.model), cases)
    enlarged = {case.name: bicubic(case.input, scale) for case in cases if case.window is not None}
    outputs: dict[str, Mapping[str, ImageArray]] = {"reference": truth, "bicubic": enlarged}
    measurements: list[Measurement] = []
    quality = [one for name in outputs for one in measure_quality(name, outputs[name], cases, partners, scale)]
    for entry in manifest.files:
        if entry is reference or entry.precision is None or not _compared_here(bundle, entry):
            continue
        runtime = open_runtime(bundle.path(entry))
        form = VariantId(precision=entry.precision, file=entry.path, runtime=runtime.name)
        found, outputs[entry.path] = compare_form(form, runtime, truth, cases)
        measurements += found
        quality += measure_quality(entry.path, outputs[entry.path], cases, partners, scale, entry.precision)
    return Remeasured(measurements=tuple(measurements), quality=tuple(quality), cases=tuple(cases), outputs=outputs)


def _compared_here(bundle: Bundle, entry: FileEntry) -> bool:
    match entry.role:
        case "weights" | "onnx":
            return True
        case "engine":
            return _runs_here(bundle.path(entry))
        case "ncnn":  # the parameter file stands for both
            return entry.path.endswith(".param") and not runtimes_here()["ncnn-cpu"]
        case _:
            return False


def _runs_here(engine: Path) -> bool:
    from aethernet.comparison.engines import runs_here
    from aethernet.engines.identity import read_record

    return runs_here(read_record(engine).identity)
