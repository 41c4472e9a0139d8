"""Every form of a release on every image of a set, against its original."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.benchmark.run import entries_of
from aethernet.comparison import Quality, bicubic, quality_of
from aethernet.comparison.measurement import significant
from aethernet.errors import AethernetError, ComparisonError, UsageError
from aethernet.images.downscaling import downscale
from aethernet.images.files import load_image, to_levels
from aethernet.precision import Precision
from aethernet.runtimes.opening import open_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aethernet.evaluation.perceptual import PerceptualMetric
    from aethernet.evaluation.sets import ImagePair, ImageSet
    from aethernet.images.files import ImageArray
    from aethernet.release.bundle import Bundle
    from aethernet.runtimes.protocol import Runtime

__all__ = ["MEASURES", "Evaluation", "VariantQuality", "contestants_of", "evaluate"]

MEASURES = ("psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedFile:
    """A form and how to run it."""

    name: str
    """As in the benchmark: ``fp32``, ``openvino-int8``, ``torch-unfused``; ``bicubic``."""
    file: str | None
    sha256: str | None
    precision: Precision | None
    runtime: Runtime | None
    """None for bicubic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantQuality:
    """One form on one set, with everything its numbers hold for."""

    set: str
    digest: str
    kernel: str
    form: str
    file: str | None
    sha256: str | None
    precision: Precision | None
    runtime: str
    channels: str
    """What ``*_rgb`` was measured on: RGB, or grey."""
    crop: int
    """Pixels cut off every side for ``*_y``; nothing is cut off for ``*_rgb``."""
    images: tuple[Quality, ...]
    perceptual: Mapping[str, tuple[float | None, ...]]
    """Measure, such as lpips -> a value per image; empty unless asked for."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of all that was measured."""
        return (*MEASURES, *self.perceptual)

    def values(self, measure: str) -> list[float | None]:
        """One per image."""
        found = self.perceptual.get(measure)
        return list(found) if found is not None else [getattr(one, measure) for one in self.images]

    def mean(self, measure: str) -> float | None:
        """Mean over the images that have a value (identical images have no PSNR)."""
        values = self.values(measure)
        known = [value for value in values if value is not None]
        return significant(float(np.mean(known))) if known else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        own = ("images", "perceptual")
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in own}
        means = {measure: self.mean(measure) for measure in self.measures}
        columns = {measure: self.values(measure) for measure in self.measures}
        each = [
            {"picture": one.image} | {measure: values[number] for measure, values in columns.items()}
            for number, one in enumerate(self.images)
        ]
        return facts | means | {"pictures": each}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All forms on all sets."""

    results: tuple[VariantQuality, ...]
    skipped: tuple[tuple[str, str], ...]
    """Form -> why it cannot run here."""
    failed: tuple[tuple[str, str], ...]
    """Form -> what went wrong, and on which set."""


def contestants_of(bundle: Bundle, only: Sequence[str] = ()) -> tuple[list[EvaluatedFile], list[tuple[str, str]]]:
    """Every form of a release that runs here, and those that do not with the reason.

    Files that hold the same tensors as another (``.pth``) and TensorRT's spelling of int8 are not among them.

    Args:
        bundle: The release.
        only: Names of forms; empty for all.

    Raises:
        UsageError: There is no form of such a name.
    """
    from aethernet.comparison.engines import runs_here
    from aethernet.engines.identity import read_record

    manifest = bundle.manifest
    digests = {entry.path: entry.sha256 for entry in manifest.files}
    found = [EvaluatedFile(name="bicubic", file=None, sha256=None, precision=None, runtime=None)]
    skipped = []
    for entry in entries_of(bundle):
        file = entry.path.relative_to(bundle.root).as_posix()
        if entry.engine in ("openvino", "ncnn") and importlib.util.find_spec(entry.engine) is None:
            skipped.append((entry.name, f"{entry.engine} is not installed"))
            continue
        runtime = open_runtime(entry.path, name=f"{entry.engine.value}-cpu")
        found.append(
            EvaluatedFile(name=entry.name, file=file, sha256=digests[file], precision=entry.precision, runtime=runtime)
        )
    for one in manifest.files:
        if one.role != "engine":
            continue
        name = one.path.removeprefix("engines/").removesuffix(".engine")
        if runs_here(read_record(bundle.path(one)).identity):
            runtime = open_runtime(bundle.path(one))
            found.append(
                EvaluatedFile(name=name, file=one.path, sha256=one.sha256, precision=one.precision, runtime=runtime)
            )
        else:
            skipped.append((name, "this engine is for another machine"))
    known = [one.name for one in found] + [name for name, _ in skipped]
    if unknown := [name for name in only if name not in known]:
        raise UsageError(f"expected forms of this release, found {', '.join(unknown)}", hint=", ".join(known))
    if only:
        return [one for one in found if one.name in only], [one for one in skipped if one[0] in only]
    return found, skipped


def evaluate(
    bundle: Bundle,
    sets: Sequence[ImageSet],
    *,
    crop: int | None = None,
    only: Sequence[str] = (),
    perceptual: Mapping[str, PerceptualMetric] | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Evaluation:
    """Measure every form of a release that runs here on whole images.

    Args:
        bundle: The release.
        sets: From :func:`~aethernet.evaluation.sets.find_sets`.
        crop: Pixels cut off every side before Y is compared; None takes the scale, as papers do.
        only: Names of forms; empty for all.
        perceptual: What to measure beside PSNR and SSIM, from
            :func:`~aethernet.evaluation.perceptual.perceptual_metrics`.
        progress: Told form and image, how many runs are done, and how many there are.

    Raises:
        ComparisonError: An original is not ``scale`` times its partner.
        UsageError: There is no form of such a name, or an image cannot be read.
    """
    config = bundle.manifest.network.config
    scale, channels = int(config["scale"]), int(config["in_channels"])
    crop = scale if crop is None else crop
    candidates, skipped = contestants_of(bundle, only)
    total, done = sum(len(one.pairs) for one in sets) * len(candidates), 0
    results, failed = [], []
    for images in sets:
        low = [_low(pair, images.kernel, scale, channels) for pair in images.pairs]
        for one in candidates:
            measured = []
            distances: dict[str, list[float | None]] = {name: [] for name in perceptual or {}}
            try:
                for pair, output in zip(images.pairs, _outputs(one, low, scale), strict=True):
                    progress(f"{one.name} on {pair.name}", done, total)
                    truth = _high(pair, scale, channels)
                    if output.shape != truth.shape:
                        raise ComparisonError(f"gave {output.shape} for {pair.name}, expected {truth.shape}")
                    if not np.isfinite(output).all():
                        raise ComparisonError(f"gave NaN or infinity for {pair.name}")
                    measured.append(quality_of(one.name, one.precision, pair.name, output, truth, crop))
                    for name, metric in (perceptual or {}).items():
                        distance = metric(output, truth)
                        distances[name].append(None if distance is None else significant(distance))
                    done += 1
            except AethernetError as error:
                failed.append((one.name, f"{images.name}: {error}"))
                done += len(images.pairs) - len(measured)
                continue
            results.append(
                VariantQuality(
                    set=images.name,
                    digest=images.digest,
                    kernel=images.kernel,
                    form=one.name,
                    file=one.file,
                    sha256=one.sha256,
                    precision=one.precision,
                    runtime="Pillow" if one.runtime is None else one.runtime.name,
                    channels="RGB" if channels == 3 else "grey",
                    crop=crop,
                    images=tuple(measured),
                    perceptual={name: tuple(values) for name, values in distances.items()},
                )
            )
    return Evaluation(results=tuple(results), skipped=tuple(skipped), failed=tuple(failed))


def _outputs(one: EvaluatedFile, low: Sequence[ImageArray], scale: int) -> Iterator[ImageArray]:
    if one.runtime is None:
        yield from (bicubic(image, scale) for image in low)
        return
    with one.runtime as runtime:
        for image in low:
            try:
                yield runtime.infer(image)
            except AethernetError:
                raise
            except Exception as error:  # whatever a runtime throws is a finding about the form
                told = str(error).strip().splitlines() or [type(error).__name__]
                raise ComparisonError(f"could not be run: {told[0]}") from error


def _high(pair: ImagePair, scale: int, channels: int) -> ImageArray:
    """The original, its sides cut to multiples of the scale at the right and at the bottom ("modcrop")."""
    truth = load_image(pair.high, channels)
    height, width = (side - side % scale for side in truth.shape[2:])
    if not min(height, width):
        raise ComparisonError(f"expected originals of at least {scale} pixels a side: {pair.high}")
    return np.ascontiguousarray(truth[:, :, :height, :width])


def _low(pair: ImagePair, kernel: str, scale: int, channels: int) -> ImageArray:
    truth = _high(pair, scale, channels)
    if pair.low is None:
        levels = downscale(to_levels(truth)[0].transpose(1, 2, 0), scale, kernel)  # type: ignore[arg-type]  # checked there
        return np.ascontiguousarray(levels.transpose(2, 0, 1)[None] / np.float32(255))
    low = load_image(pair.low, channels)
    if tuple(side * scale for side in low.shape[2:]) != truth.shape[2:]:
        raise ComparisonError(
            f"expected {pair.high.name} to be {scale} times {pair.low.name}, "
            f"{low.shape[3] * scale}x{low.shape[2] * scale}, found {truth.shape[3]}x{truth.shape[2]}",
            hint="pair images of the same scene; HR = LR size x scale",
        )
    return low
