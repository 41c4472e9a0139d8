"""Running forms beside the reference with Polygraphy and measuring the difference.

The reference is always the training-form float32 network in PyTorch, never the previous stage, so that small losses
cannot add up unseen. Nothing here raises on bad numbers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.comparison.cases import Case
from aethernet.comparison.measurement import Measurement, Quality, VariantId, significant
from aethernet.comparison.metrics import crop_border, level_shares, luma, psnr, ssim
from aethernet.errors import ComparisonError
from aethernet.images.files import load_image, to_levels
from aethernet.runtimes.protocol import Runtime

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["bicubic", "compare_form", "measure", "measure_quality", "outputs_of", "quality_of", "with_agreement"]

_OUTPUT = "output"


def outputs_of(runtime: Runtime, cases: Sequence[Case]) -> dict[str, ImageArray]:
    """Case name -> output of one runtime, run by Polygraphy."""
    results = _run([_runner(runtime)], cases)
    iterations = next(iter(results.values()))
    return {case.name: iteration[_OUTPUT] for case, iteration in zip(cases, iterations, strict=True)}


def compare_form(
    form: VariantId, runtime: Runtime, reference: Mapping[str, ImageArray], cases: Sequence[Case]
) -> tuple[list[Measurement], dict[str, ImageArray]]:
    """Run one form on every case and measure it against the reference outputs.

    Args:
        form: What is being compared.
        runtime: How to run it.
        reference: Case name -> output of the training form, from :func:`outputs_of`.
        cases: The inputs.

    Returns:
        One measurement per case, and the form's outputs by case name (to compare with HR images).
    """
    from polygraphy.comparator import Comparator, RunResults
    from polygraphy.comparator.struct import IterationResult

    try:
        results = _run([_runner(runtime)], cases)
    except Exception as error:  # noqa: BLE001 (whatever a runtime throws is a finding about the form, judged by the gate)
        reason = f"could not be run: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        return [_unmeasured(form, case, reason) for case in cases], {}
    expected = RunResults()
    expected["reference"] = [
        IterationResult(outputs=OrderedDict({_OUTPUT: reference[case.name]}), runtime=0.0, runner_name="reference")
        for case in cases
    ]
    iterations = next(iter(results.values()))
    expected[runtime.name] = iterations
    measured: list[Measurement] = []
    waiting = iter(cases)

    def comparison(wanted: Any, found: Any) -> OrderedDict[str, _Judgement]:
        measured.append(measure(form, next(waiting), wanted[_OUTPUT], found[_OUTPUT]))
        # Polygraphy wants a verdict per output; ours is the gate's, over all forms at once.
        return OrderedDict({_OUTPUT: _Judgement(measured[-1])})

    with _quiet():
        Comparator.compare_accuracy(expected, compare_func=comparison, comparisons=[(0, 1)])
    outputs = {case.name: iteration[_OUTPUT] for case, iteration in zip(cases, iterations, strict=True)}
    return measured, outputs


class _Judgement:
    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement

    def __bool__(self) -> bool:
        return self.measurement.problem is None and self.measurement.finite


def measure(form: VariantId, case: Case, wanted: ImageArray, found: ImageArray) -> Measurement:
    """All measures of one output against the reference's, both [N, C, H, W]."""
    if wanted.shape != found.shape:
        return _unmeasured(form, case, f"expected an output of shape {wanted.shape}, found {found.shape}")
    if not np.isfinite(wanted).all():
        return _unmeasured(form, case, "the reference's own output holds NaN or infinity")
    finite = bool(np.isfinite(found).all())
    common: dict[str, Any] = {
        "form": form,
        "case": case.name,
        "image": case.image,
        "shape": (case.input.shape[0], *case.input.shape[2:]),
        "finite": finite,
        "reference_range": significant(float(wanted.max() - wanted.min())),
    }
    if not finite:
        return Measurement(**common)
    difference = found.astype(np.float64) - wanted.astype(np.float64)
    shown, shown_reference = np.clip(found, 0, 1), np.clip(wanted, 0, 1)
    shares = level_shares(found, wanted)
    signed = (shown.astype(np.float64) - shown_reference.astype(np.float64)).mean(axis=(0, 2, 3))
    return Measurement(
        **common,
        max_abs=significant(float(np.abs(difference).max())),
        mean_abs=significant(float(np.abs(difference).mean())),
        signed_mean=tuple(significant(float(value)) for value in signed),
        psnr=significant(psnr(shown, shown_reference)),
        ssim=significant(ssim(shown, shown_reference)),
        levels_equal=significant(shares.equal),
        levels_off_by_1=significant(shares.off_by_1),
        levels_off_by_2_or_more=significant(shares.off_by_2_or_more),
        levels_largest=shares.largest,
    )


def with_agreement(
    measurement: Measurement, outputs: Mapping[str, ImageArray], others: Mapping[str, ImageArray]
) -> Measurement:
    """The measurement with the share of 8-bit values that two files give alike to one level, where both gave any."""
    if measurement.case not in outputs or measurement.case not in others:
        return measurement
    shares = level_shares(outputs[measurement.case], others[measurement.case])
    return measurement.model_copy(update={"agreement": significant(shares.equal + shares.off_by_1)})


def _unmeasured(form: VariantId, case: Case, problem: str) -> Measurement:
    shape = (case.input.shape[0], *case.input.shape[2:])
    return Measurement(form=form, case=case.name, image=case.image, shape=shape, problem=problem)


def measure_quality(
    form: str,
    outputs: Mapping[str, ImageArray],
    cases: Sequence[Case],
    high: Mapping[str, Path],
    scale: int,
    precision: Any = None,
) -> list[Quality]:
    """Every whole image that has an HR partner, against it; 8-bit rounded outputs.

    Args:
        form: Name to list it under.
        outputs: Case name -> [1, C, s*H, s*W].
        cases: The inputs.
        high: Stem -> HR image file.
        scale: Output size over input size; also the border cut off for Y, as papers do.
        precision: The form's precision, None for baselines.

    Raises:
        ComparisonError: An HR image is not ``scale`` times its LR partner.
    """
    found = []
    for case in cases:
        if case.window is None or case.image not in high or case.name not in outputs:
            continue
        truth = _high_window(high[case.image], case, scale)
        output = outputs[case.name]
        if output.shape != truth.shape or not np.isfinite(output).all():
            continue  # measured as a problem against the reference already
        found.append(quality_of(form, precision, case.image, output, truth, scale))
    return found


def quality_of(form: str, precision: Any, image: str, output: ImageArray, truth: ImageArray, border: int) -> Quality:
    """One output against its original, both [1, C, H, W]; the output is clipped and rounded to 8 bits first.

    Args:
        form: Name to list it under.
        precision: The form's precision, None for baselines.
        image: Name of the image.
        output: Finite.
        truth: Of the same shape.
        border: Pixels cut off every side for Y.
    """
    shown = (to_levels(output) / 255.0).astype(np.float32)
    y, truth_y = crop_border(luma(shown), border), crop_border(luma(truth), border)
    return Quality(
        form=form,
        precision=precision,
        image=image,
        psnr_rgb=significant(psnr(shown, truth)),
        ssim_rgb=significant(ssim(shown, truth)),
        psnr_y=significant(psnr(y, truth_y)),
        ssim_y=significant(ssim(y, truth_y)),
        border=border,
    )


def _high_window(path: Path, case: Case, scale: int) -> ImageArray:
    truth = load_image(path, case.input.shape[1])
    top, left, height, width = (side * scale for side in case.window or (0, 0, 0, 0))
    wanted = tuple(side * scale for side in case.whole)
    # Up to scale - 1 pixels more are what is cut off when an HR image's side is no multiple of the scale.
    if any(not 0 <= found - side < scale for found, side in zip(truth.shape[2:], wanted, strict=True)):
        raise ComparisonError(
            # By its stem: in a release the file is one of the store's, whose name is a digest.
            f"expected the HR image of {case.image} to be {scale} times its LR partner, {wanted[1]}x{wanted[0]}, "
            f"found {truth.shape[3]}x{truth.shape[2]}",
            hint="pair images of the same scene by file stem; HR = LR size x scale",
        )
    return truth[:, :, top : top + height, left : left + width]


def bicubic(image: ImageArray, scale: int) -> ImageArray:
    """Pillow's bicubic enlargement of [1, C, H, W] on 8-bit values: the baseline everybody has."""
    from PIL import Image

    levels = to_levels(image)[0]
    size = (levels.shape[2] * scale, levels.shape[1] * scale)
    planes = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC)) for plane in levels]
    enlarged: ImageArray = np.stack(planes)[None].astype(np.float32) / np.float32(255)
    return enlarged


def _runner(runtime: Runtime) -> Any:
    """A Polygraphy runner around one of our runtimes."""
    from polygraphy.backend.base import BaseRunner

    class RuntimeRunner(BaseRunner):  # type: ignore[misc]  # Polygraphy ships no types
        def activate_impl(self) -> None:
            self.opened = runtime.__enter__()

        def get_input_metadata_impl(self) -> Any:
            from polygraphy.common import TensorMetadata

            return TensorMetadata().add("input", dtype=np.float32, shape=(None, None, None, None))

        def infer_impl(self, feed_dict: Mapping[str, ImageArray]) -> OrderedDict[str, ImageArray]:
            import time

            start = time.perf_counter()
            output = self.opened.infer(feed_dict["input"])
            self.inference_time = time.perf_counter() - start
            return OrderedDict({_OUTPUT: output})

        def deactivate_impl(self) -> None:
            runtime.__exit__(None, None, None)

    return RuntimeRunner(name=runtime.name)


def _run(runners: list[Any], cases: Sequence[Case]) -> Any:
    from polygraphy.comparator import Comparator

    with _quiet():
        return Comparator.run(runners, data_loader=[{"input": case.input} for case in cases])


def _quiet() -> Any:
    from polygraphy.logger import G_LOGGER

    return G_LOGGER.verbosity(G_LOGGER.CRITICAL)
