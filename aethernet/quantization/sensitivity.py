"""What quantising each part of a network costs, and which parts to leave in float for a stated quality.

All parts are calibrated once, in one network; then one part after the other is switched on while all others compute in
float, and what that changes in the picture is measured. Costs of several parts nearly add up, because rounding errors
of different layers hardly correlate; wherever a decision depends on their sum, the sum itself is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from aethernet.errors import CalibrationError, QuantizationError
from aethernet.quantization.calibration import as_input
from aethernet.quantization.modules import Mode, QuantizedConv, Quantizer
from aethernet.quantization.structure import belongs, convs_of, restructure, units_of

if TYPE_CHECKING:
    from aethernet.quantization.calibrated import Calibrated

__all__ = [
    "CROPS",
    "OUT_OF_PROPORTION",
    "Cost",
    "Sensitivity",
    "UnitCost",
    "UnitTimes",
    "measure_sensitivity",
    "out_of_proportion",
]

OUT_OF_PROPORTION = 5.0
"""A part stays float where its share of the error is more than this many times its share of the multiplications."""

_GLANCE = 2

CROPS = 8
"""Pictures are compared on at most this many crops, spread over all that were calibrated on."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """How far a network's picture is from another's, both clipped to [0, 1].

    The mean shift of each channel over all pictures is not part of ``noise``: bias correction takes it off.
    """

    noise: float
    """Mean square error."""
    signal: float
    """Mean square of the other picture."""
    tint: float
    """Largest mean shift of a channel before bias correction, in the picture's range."""

    @property
    def psnr(self) -> float | None:
        """Peak signal (1.0) to noise, dB; None without noise."""
        return _decibels(1.0, self.noise)

    @property
    def snr(self) -> float | None:
        """Signal to noise, dB; None without noise."""
        return _decibels(self.signal, self.noise)


def _decibels(power: float, noise: float) -> float | None:
    return 10 * math.log10(power / noise) if noise > 0 and power > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCost:
    """One part, quantised alone."""

    unit: str
    cost: Cost
    """Against the same network with nothing quantised."""
    work: float
    """Multiply-accumulates of this part, as a share of those of all parts: what integer kernels have to save."""
    kept_float: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Every part with its cost, and what follows for the network."""

    units: tuple[UnitCost, ...]
    """In the order they run."""
    rewriting: Cost
    """Against the float network: nothing quantised yet, but GELU computed as SiLU and float weights in half precision.
    """
    expected: Cost
    """Against the float network: every part quantised but those kept float."""
    crops: int = field(default=0)
    """How many crops were compared."""

    @property
    def kept_float(self) -> tuple[str, ...]:
        """Parts to keep float."""
        return tuple(one.unit for one in self.units if one.kept_float)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTimes:
    """Milliseconds of kernels per run, medians; all runs interleaved."""

    units: Mapping[str, tuple[float, float]]
    """Unit -> fp32, int8."""
    elsewhere: tuple[float, float]
    """What belongs to no part: large kernels, norms, sums, first and last convolution."""
    total: tuple[float, float]
    """Of the whole run."""
    shape: tuple[int, ...]
    """N, C, H, W of the input."""
    runs: int
    threads: int
    """0: as many as ONNX Runtime chose."""


def measure_sensitivity(
    calibrated: Calibrated,
    *,
    keep_float: Collection[str] = (),
    budget_db: float | None = None,
    progress: Progress = lambda _: None,
) -> Sensitivity:
    """Measure each part of a network; with a budget, decide which to keep float.

    Parts are kept float, those first that cost most noise for the multiplications they would save, until the network's
    PSNR to the float network reaches ``budget_db``. Time plays no part: a release runs on other machines too, and the
    same network must give the same release.

    Args:
        calibrated: Of :func:`~aethernet.quantization.post_training.calibrate`, with every part quantised.
        keep_float: Parts that stay float whatever they cost.
        budget_db: dB.
        progress: Told the name of each part before it is measured.

    Raises:
        CalibrationError: There are no pictures to compare on.
        QuantizationError: The budget cannot be kept with any part quantised.
    """
    switches = _Switches(calibrated)
    unquantized = switches.pictures(())
    costs = {}
    for unit in switches.units:
        progress(unit)
        costs[unit] = _cost(switches.pictures({unit}), unquantized)
    progress("the whole network")
    rewriting = _cost(unquantized, switches.wanted)
    total = sum(switches.work.values())
    kept = set(keep_float)
    expected = _cost(switches.pictures(switches.units.keys() - kept), switches.wanted)
    if budget_db is not None:
        waiting = [unit for unit in costs if unit not in kept]
        waiting.sort(key=lambda unit: costs[unit].noise / switches.work[unit])
        allowed = 10 ** (-budget_db / 10)
        while expected.noise > allowed:
            if len(waiting) < 2:
                raise QuantizationError(
                    f"expected int8 within {budget_db:g} dB of the float network, found {expected.psnr:.1f} dB"
                    f" with all parts but {waiting[0] if waiting else 'none'} in float",
                    hint="lower `budget_db`",
                )
            excess = expected.noise - allowed
            chosen = []
            while excess > 0 and len(waiting) > 1:
                chosen.append(waiting.pop())
                excess -= costs[chosen[-1]].noise
            for unit in sorted(chosen, key=switches.work.__getitem__, reverse=True):
                if excess + costs[unit].noise <= 0:  # a later choice made this one superfluous
                    chosen.remove(unit)
                    waiting.append(unit)
                    excess += costs[unit].noise
            kept.update(chosen)
            progress(f"{len(kept)} parts kept float")
            expected = _cost(switches.pictures(switches.units.keys() - kept), switches.wanted)
    return Sensitivity(
        units=tuple(
            UnitCost(unit=unit, cost=cost, work=switches.work[unit] / total, kept_float=unit in kept)
            for unit, cost in costs.items()
        ),
        rewriting=rewriting,
        expected=expected,
        crops=len(switches.inputs),
    )


def out_of_proportion(calibrated: Calibrated) -> tuple[str, ...]:
    """Parts that cost far more quality than they gain time; few networks have any, and then one or two.

    On a real network the convolution before the upsampler makes a third of the error with a twentieth of the work.
    Switches the network's quantisers; :func:`~aethernet.quantization.modules.set_mode` switches them back.
    """
    switches = _Switches(calibrated, _GLANCE)
    unquantized = switches.pictures(())
    noise = {unit: _cost(switches.pictures({unit}), unquantized).noise for unit in switches.units}
    whole, work = sum(noise.values()), sum(switches.work.values())
    return tuple(unit for unit in noise if noise[unit] * work > OUT_OF_PROPORTION * whole * switches.work[unit])


class _Switches:
    """A calibrated network whose parts can be quantised one by one."""

    def __init__(self, calibrated: Calibrated, crops: int = CROPS) -> None:
        if not calibrated.crops:
            raise CalibrationError("expected pictures to compare on, found none")
        self.network = calibrated.network
        step = -(-len(calibrated.crops) // crops)
        self.inputs = [as_input(crop) for crop in calibrated.crops[::step]]
        with torch.inference_mode():
            self.wanted = [calibrated.fused(one).clamp(0, 1) for one in self.inputs]
        self.units = {unit: _modules(calibrated, unit) for unit in units_of(calibrated.fused)}
        self.work = _work(calibrated.network, self.inputs[0], list(self.units))

    @torch.inference_mode()
    def pictures(self, quantized: Collection[str]) -> list[Tensor]:
        """What the network makes of every crop with these parts quantised and no other; clipped to [0, 1]."""
        for module in self.network.modules():
            if isinstance(module, Quantizer | QuantizedConv):
                module.mode = Mode.OFF
        for unit in quantized:
            for module in self.units[unit]:
                module.mode = Mode.ON
        return [self.network(one).clamp(0, 1) for one in self.inputs]


def _cost(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Cost:
    errors = [(one - other).double() for one, other in zip(found, wanted, strict=True)]
    values = sum(one.numel() for one in errors)
    channels = errors[0].shape[1]
    shift = torch.stack([one.sum(dim=(0, 2, 3)) for one in errors]).sum(dim=0) / (values / channels)
    noise = sum(float(one.square().sum()) for one in errors) / values - float(shift.square().mean())
    return Cost(
        noise=max(0.0, noise),
        signal=sum(float(one.double().square().sum()) for one in wanted) / values,
        tint=float(shift.abs().max()),
    )


def _modules(calibrated: Calibrated, unit: str) -> list[Quantizer | QuantizedConv]:
    """What rounds when ``unit`` is quantised alone: its layers, and what puts their inputs on a grid."""
    others = [one for one in units_of(calibrated.fused) if one != unit]
    alone = restructure(calibrated.fused, slopes=calibrated.slopes, keep_float=others)
    names = {name for name, module in alone.named_modules() if isinstance(module, Quantizer | QuantizedConv)}
    found: list[Quantizer | QuantizedConv] = []
    for name, module in calibrated.network.named_modules():
        if name in names and isinstance(module, Quantizer | QuantizedConv):
            found.append(module)
            found += module.sources if isinstance(module, QuantizedConv) else []
    return found


def _work(network: nn.Module, picture: Tensor, units: list[str]) -> dict[str, int]:
    """Multiply-accumulates of each part for one picture."""
    counted = dict.fromkeys(units, 0)

    def hook(unit: str) -> Callable[[nn.Module, object, Tensor], None]:
        def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
            assert isinstance(module, QuantizedConv)
            counted[unit] += module.weight.numel() * output.shape[2] * output.shape[3]

        return count

    handles = [
        module.register_forward_hook(hook(next(unit for unit in units if belongs(name, unit))))
        for name, module in convs_of(network)
    ]
    try:
        with torch.inference_mode():
            network(picture)
    finally:
        for handle in handles:
            handle.remove()
    return counted
