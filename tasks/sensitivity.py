"""Sensitivity: which parts of the network stay float for the quality the spec asks for, or why none is enough."""

from __future__ import annotations

from pydantic import BaseModel

from aethernet.artifact import Artifact, atomic_path
from aethernet.benchmark.parts import time_units
from aethernet.checkpoint import load
from aethernet.comparison import build_cases
from aethernet.comparison.measurement import significant
from aethernet.errors import QuantizationError
from aethernet.images.files import load_picture, sample_pictures
from aethernet.quantization.calibration import Method
from aethernet.quantization.post_training import calibrate
from aethernet.quantization.sensitivity import measure_sensitivity
from aethernet.release.chart import sensitivity_chart
from aethernet.release.manifest import PartFacts, PartSpeed, SensitivityFacts
from aethernet.release.spec import QuantizationSpec
from tasks.caching import current_store, stage
from tasks.fetch import ValidationImage

__all__ = ["CHART", "FloatParts", "sensitivity"]

CHART = "images/sensitivity.png"
_SIDE = 128


class FloatParts(BaseModel):
    """The parts to keep float with what each costs and gains; or why there is no such choice."""

    spec: QuantizationSpec
    """What was asked for, with the parts chosen."""
    facts: SensitivityFacts | None = None
    speeds: tuple[PartSpeed, ...] = ()
    chart: Artifact | None = None
    reason: str | None = None


@stage(host_matters=True)
def sensitivity(
    checkpoint: Artifact,
    residual_scale: float | None,
    fused: Artifact,
    pictures: list[ValidationImage],
    spec: QuantizationSpec,
) -> FloatParts:
    """Measure every part, and choose for the spec's budget."""
    store = current_store()
    assert spec.budget_db is not None
    network = load(store.get(fused))
    channels = network.config.in_channels
    low = {picture.name: store.get(picture.low) for picture in pictures}
    own = {path.stem: path for path in sample_pictures()}
    try:
        calibrated = calibrate(
            network.model,
            pictures=[load_picture(path, channels) for path in low.values()],
            records=load(store.get(checkpoint), residual_scale=residual_scale).quantization,
            fallback=[load_picture(path, channels) for path in own.values()],
            method=Method(spec.method),
            seed=spec.seed,
        )
        measured = measure_sensitivity(calibrated, keep_float=spec.keep_float or (), budget_db=spec.budget_db)
    except QuantizationError as error:
        return FloatParts(spec=spec, reason=error.reason)
    case = build_cases(low or own, channels, static=(_SIDE, _SIDE))[0]
    times = time_units(network.model, calibrated.network, case.input)
    with store.scratch() as folder:
        with atomic_path(folder / "sensitivity.png") as temporary:
            # Without times: pictures are part of the release, which is the same whenever it is made.
            sensitivity_chart(measured).save(temporary, format="PNG")
        return FloatParts(
            spec=spec.model_copy(update={"keep_float": measured.kept_float}),
            facts=SensitivityFacts(
                budget=spec.budget_db,
                expected_psnr=significant(measured.expected.psnr),
                parts=tuple(
                    PartFacts(
                        name=one.unit,
                        psnr=significant(one.cost.psnr),
                        snr=significant(one.cost.snr),
                        tint=one.cost.tint,
                        work=one.work,
                        kept_float=one.kept_float,
                    )
                    for one in measured.units
                ),
            ),
            speeds=tuple(
                PartSpeed(name=unit, fp32_ms=round(before, 4), int8_ms=round(after, 4))
                for unit, (before, after) in times.units.items()
            ),
            chart=store.put(folder / "sensitivity.png"),
        )
