"""From a fused float network to a finished int8 network: ranges, weights on their grid, biases corrected."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from aethernet.errors import CalibrationError
from aethernet.networks.network import as_aethernet
from aethernet.networks.sizes import padded
from aethernet.networks.third_party import ForeignNetwork
from aethernet.quantization.calibrated import Calibrated, TensorRange
from aethernet.quantization.calibration import (
    Method,
    TensorHistogram,
    as_input,
    choose_range,
    crops_of,
    rounding_noise,
    watch,
)
from aethernet.quantization.correction import correct_biases
from aethernet.quantization.equalization import equalize_gates, equalize_tail
from aethernet.quantization.modules import Mode, QuantizedConv, QuantizedGate, Quantizer, set_mode
from aethernet.quantization.records import Range, recorded_ranges, usable_records
from aethernet.quantization.scheme import ACTIVATION_MAX, activation_scale
from aethernet.quantization.sensitivity import out_of_proportion
from aethernet.quantization.structure import (
    DEFAULT_SLOPE,
    gated_units,
    quantizers_of,
    restructure,
    units_of,
)

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray
    from aethernet.networks.network import Network
    from aethernet.quantization.records import QuantizationRecords

__all__ = ["CROPS_EACH", "CROP_SIDE", "Quantized", "calibrate", "quantize"]

CROP_SIDE, CROPS_EACH = 96, 4
"""Calibration looks at this many crops of this side per picture, one at a time."""

_CORRECTION_CROPS = 24
"""Biases are corrected on at most this many crops at once, so that memory stays bounded."""

_EQUALIZED_TAIL = ("conv_before_upsample.0.output", "conv_before_upsample.2", "upsample.")
_SLOPE_CROPS = 2
_MOST_MEASURED = 100
"""Parts: measuring each takes as many runs of the network, hours for the hundreds of convolutions that some have."""
_SLOPES = tuple(round(1.58 + 0.02 * step, 2) for step in range(8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """An int8 network and how it came about."""

    model: Network = field(repr=False)
    """Computes in PyTorch what the int8 files compute; float32 in and out."""
    tensors: tuple[TensorRange, ...]
    keep_float: tuple[str, ...]
    """Parts left in float by choice."""
    slope: float | None
    """Generation 1: slope of the sigmoid that stands for GELU."""
    tint_removed: float | None
    """Largest mean shift of the last layer that bias correction took off, in units of the picture's range."""


def quantize(
    fused: Network,
    *,
    pictures: Sequence[ImageArray] = (),
    records: QuantizationRecords | None = None,
    fallback: Sequence[ImageArray] = (),
    method: Method = Method.BEST,
    keep_float: Collection[str] | None = None,
    seed: int = 0,
    freeze: bool = True,
) -> Quantized:
    """Make the int8 network of ``fused``.

    Ranges come from ``records`` or ``pictures``; where both know a tensor, the one that rounds it with less error.

    Args:
        fused: In fused form, float32. Not changed.
        pictures: To calibrate on, each [1, C, H, W] float32 in [0, 1].
        records: Of quantisation-aware training.
        fallback: Pictures for what records leave open, where no ``pictures`` are given.
        method: How ranges follow from pictures.
        keep_float: Names from :func:`units_of` to leave in float; None: those :func:`out_of_proportion` names, or none
            where there are too many to measure each.
        seed: Of the places crops are taken from.
        freeze: Put the weights on their grid; what is to learn keeps them exact.

    Raises:
        CalibrationError: Neither records nor pictures.
        QuantizationError: An impossible request.
    """
    calibrated = partial(
        calibrate, fused, pictures=pictures, records=records, fallback=fallback, method=method, seed=seed
    )
    ready = calibrated(keep_float=keep_float or ())
    if keep_float is None:
        few = len(units_of(fused)) <= _MOST_MEASURED
        keep_float = out_of_proportion(ready) if ready.crops and few else ()
        ready = _without(ready, keep_float) or calibrated(keep_float=keep_float)
    tint = correct_biases(ready.network, ready.fused, _batch(ready.crops), ready.slopes) if ready.crops else None
    if freeze:
        freeze_weights(ready.network)
    return Quantized(
        model=ready.network,
        tensors=ready.tensors,
        keep_float=tuple(unit for unit in units_of(fused) if unit in keep_float),
        slope=ready.slope,
        tint_removed=tint,
    )


def calibrate(
    fused: Network,
    *,
    pictures: Sequence[ImageArray] = (),
    records: QuantizationRecords | None = None,
    fallback: Sequence[ImageArray] = (),
    method: Method = Method.BEST,
    keep_float: Collection[str] = (),
    seed: int = 0,
) -> Calibrated:
    """Find the grid of every tensor; arguments and errors are those of :func:`quantize`."""
    if not pictures and records is None:
        raise CalibrationError("expected calibration pictures or records of quantisation-aware training, found neither")
    crops = [padded(crop, fused.config.size) for crop in crops_of(pictures or fallback, CROP_SIDE, CROPS_EACH, seed)]
    # PyTorch's large depthwise kernels are several times faster with channels last (measured with AVX2: 7.5 times).
    fused = copy.deepcopy(fused).to(memory_format=torch.channels_last)
    tail_changed = False
    if not isinstance(fused, ForeignNetwork):
        if pictures:  # the library's own are no reason to do without what training recorded
            equalize_gates(fused, crops)
        tail_changed = equalize_tail(fused, crops)
    slope = _fit_slope(fused, crops)
    slopes = {unit: slope for unit in gated_units(fused) if slope is not None}
    network = restructure(fused, slopes=slopes, keep_float=keep_float)
    known = recorded_ranges(records, as_aethernet(network), slopes) if records is not None else {}
    known = {name: one for name, one in known.items() if not _is_rescaled(name, bool(pictures), tail_changed)}
    if records is not None and not usable_records(records) and not pictures:
        raise CalibrationError("the checkpoint's quantisation records hold no usable range, and there are no pictures")
    quantizers = quantizers_of(network)
    # Derived: what depends on another scale alone. Recorded ranges are looked at again only where pictures were given.
    watched = {
        name: one
        for name, one in quantizers.items()
        if not name.endswith(".sigmoid") and (pictures or name not in known)
    }
    gates = {
        f"{name}.crossed": module.conv_gate
        for name, module in network.named_modules()
        if isinstance(module, QuantizedGate)
    }
    seen = watch(network, watched, crops, gates) if watched else {}
    tensors = []
    for name, quantizer in quantizers.items():
        scale, source = _decide(known.get(name), seen.get(name), method)
        if scale is None:
            if not name.endswith(".sigmoid"):
                raise CalibrationError(
                    f"expected a record or a picture to take the range of {name} from, found neither"
                )
            # sigmoid of the largest gate there can be; gates come first in the dictionary
            gate = quantizers[f"{name.removesuffix('.sigmoid')}.conv_gate.output"]
            scale = activation_scale(0.0, 1 / (1 + math.exp(-ACTIVATION_MAX * float(gate.scale))))
        quantizer.scale.data.fill_(scale)
        tensors.append(TensorRange(name=name, scale=float(quantizer.scale), source=source))
    set_mode(network, Mode.ON)
    return Calibrated(
        network=network, fused=fused, crops=tuple(crops), slope=slope, slopes=slopes, tensors=tuple(tensors)
    )


def _is_rescaled(name: str, gates: bool, tail: bool) -> bool:
    """Whether a quantiser's tensor has other channels than in training, so that what was recorded holds no more."""
    of_gate = gates and name.endswith((".conv_main.output", ".product"))
    return of_gate or (tail and name.startswith(_EQUALIZED_TAIL))


def _without(ready: Calibrated, keep_float: Collection[str]) -> Calibrated | None:
    """The same grids with parts in float, quantisers on; None where one becomes necessary that was not."""
    network = restructure(ready.fused, slopes=ready.slopes, keep_float=keep_float)
    scales, remaining = quantizers_of(ready.network), quantizers_of(network)
    if not remaining.keys() <= scales.keys():
        return None
    for name, quantizer in remaining.items():
        quantizer.scale.data.copy_(scales[name].scale.data)
    set_mode(network, Mode.ON)
    return replace(ready, network=network, tensors=tuple(one for one in ready.tensors if one.name in remaining))


def _decide(
    recorded: tuple[Range, str] | None, seen: TensorHistogram | None, method: Method
) -> tuple[float | None, str]:
    """Scale and source of one tensor: by the record, by pictures, or by whichever of the two rounds with less error.

    Observers keep the extremes of a whole training, often several times what any picture needs.
    """
    choice = choose_range(seen, method) if seen is not None else None
    if recorded is None:
        return (choice.scale, f"pictures: {choice.method.value}") if choice is not None else (None, "derived")
    (low, high), module = recorded
    scale = activation_scale(low, high)
    if seen is not None and choice is not None and choice.noise < rounding_noise(seen, scale):
        return choice.scale, f"pictures: {choice.method.value} (less error than the record of {module})"
    return scale, f"records: {module}"


def freeze_weights(network: nn.Module) -> None:
    """Put every quantised weight on its grid, biases and float weights in half precision, rounding on; in place."""
    set_mode(network, Mode.ON)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, QuantizedConv):
                module.weight.copy_(module.rounded_weight())
                module.round_bias_()
            elif not isinstance(module, Quantizer):
                for parameter in module.parameters(recurse=False):
                    parameter.copy_(parameter.half())


@torch.inference_mode()
def _fit_slope(fused: Network, crops: Sequence[ImageArray]) -> float | None:
    """Generation 1: the slope for all gates with which the network's picture stays nearest to that with exact GELU.

    Fitting it to each layer's own values is worse: errors of several layers then point the same way (measured on a real
    network: 55 dB against 63).
    """
    gates = gated_units(fused)
    if not gates:
        return None
    inputs = [as_input(crop) for crop in crops[:_SLOPE_CROPS]]
    if not inputs:
        return DEFAULT_SLOPE
    exact = [fused(one) for one in inputs]

    def error(slope: float) -> float:
        network = restructure(fused, slopes=dict.fromkeys(gates, slope))
        return sum(float((network(one) - wanted).square().sum()) for one, wanted in zip(inputs, exact, strict=True))

    return min(_SLOPES, key=error)


def _batch(crops: Sequence[ImageArray]) -> torch.Tensor:
    """Crops of one size, [N, C, H, W]: as many as have the commonest, spread over the pictures."""
    sizes = [crop.shape[2:] for crop in crops]
    common = max(sorted(set(sizes)), key=sizes.count)
    chosen = [crop for crop, size in zip(crops, sizes, strict=True) if size == common]
    step = max(1, -(-len(chosen) // _CORRECTION_CROPS))
    return as_input(np.concatenate(chosen[::step]))
