"""What each part costs, and which to keep float: a network with one deliberately bad part tells whether it is true."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from aethernet.errors import CalibrationError, QuantizationError
from aethernet.networks import AetherNet
from aethernet.quantization.calibrated import Calibrated
from aethernet.quantization.modules import Mode, set_mode
from aethernet.quantization.post_training import calibrate, quantize
from aethernet.quantization.sensitivity import Sensitivity, measure_sensitivity, out_of_proportion
from aethernet.quantization.structure import convs_of, quantizers_of, units_of
from aethernet.release.chart import sensitivity_chart
from tests.support.quantization import (
    Prepared,
    calibration_pictures,
    fused_network,
    same_tensors,
    snapshot,
)


def calibrated_with_a_bad_part(generation: int) -> tuple[Calibrated, str]:
    """The grid of one part, the second gate, is made so coarse that the picture suffers."""
    ready = calibrate(fused_network(generation), pictures=calibration_pictures())
    bad = units_of(ready.fused)[1]
    for name, quantizer in quantizers_of(ready.network).items():
        if name.startswith(f"{bad}."):
            quantizer.scale.data.mul_(16)
            quantizer.step = float(quantizer.scale)
    return ready, bad


@pytest.fixture(scope="module")
def measured(prepared: Prepared) -> Sensitivity:
    return measure_sensitivity(calibrate(prepared.fused, pictures=prepared.pictures))


def worst(measured: Sensitivity) -> str:
    return max(measured.units, key=lambda one: one.cost.noise).unit


@pytest.mark.parametrize("generation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_bad_part_is_named_and_keeping_it_float_helps(generation: int) -> None:
    ready, bad = calibrated_with_a_bad_part(generation)

    everything = measure_sensitivity(ready)
    without = measure_sensitivity(ready, keep_float=[bad])

    assert worst(everything) == bad
    assert everything.kept_float == ()
    assert without.kept_float == (bad,)
    assert without.expected.psnr is not None
    assert everything.expected.psnr is not None
    assert without.expected.psnr > everything.expected.psnr + 3


@pytest.mark.parametrize("generation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_only_a_part_out_of_proportion_is_left_float_unasked(generation: int) -> None:
    ready, bad = calibrated_with_a_bad_part(generation)
    for name, quantizer in quantizers_of(ready.network).items():
        if name.startswith(f"{bad}."):
            quantizer.scale.data.mul_(4)
            quantizer.step = float(quantizer.scale)

    assert bad in out_of_proportion(ready)
    assert bad not in out_of_proportion(calibrate(fused_network(generation), pictures=calibration_pictures()))


@pytest.mark.parametrize("generation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_keeping_another_part_float_does_not_help_as_much(generation: int) -> None:
    ready, bad = calibrated_with_a_bad_part(generation)
    other = units_of(ready.fused)[0]

    without_bad, without_other = (measure_sensitivity(ready, keep_float=[unit]) for unit in (bad, other))

    assert without_other.expected.noise > 2 * without_bad.expected.noise


def test_the_control_without_a_bad_part_names_another(measured: Sensitivity, prepared: Prepared) -> None:
    assert worst(measured) != units_of(prepared.fused)[1]


def test_every_part_is_measured_in_the_order_it_runs(measured: Sensitivity, prepared: Prepared) -> None:
    assert [one.unit for one in measured.units] == units_of(prepared.fused)
    assert all(one.cost.noise > 0 for one in measured.units)
    assert sum(one.work for one in measured.units) == pytest.approx(1)
    assert measured.crops == len(prepared.pictures)


def test_costs_of_the_parts_nearly_add_up_to_that_of_the_network(measured: Sensitivity) -> None:
    total = sum(one.cost.noise for one in measured.units) + measured.rewriting.noise

    assert abs(10 * math.log10(total / measured.expected.noise)) < 1.5


def test_a_part_alone_costs_what_a_network_with_that_part_alone_costs(prepared: Prepared) -> None:
    """The shortcut, one network with parts switched on and off, beside the long way: a network made for it."""
    part = "conv_after_body"
    others = [unit for unit in units_of(prepared.fused) if unit != part]
    alone = calibrate(prepared.fused, pictures=prepared.pictures, keep_float=others)
    ready = calibrate(prepared.fused, pictures=prepared.pictures)

    (switched,) = (one.cost for one in measure_sensitivity(ready).units if one.unit == part)

    assert [name for name, _ in convs_of(alone.network)] == [part]
    inputs = [torch.from_numpy(picture) for picture in prepared.pictures]
    rounded = _clipped(alone.network, inputs)
    set_mode(alone.network, Mode.OFF)
    error = rounded - _clipped(alone.network, inputs)
    noise = float((error - error.mean(dim=(0, 2, 3), keepdim=True)).square().mean())
    assert abs(10 * math.log10(noise / switched.noise)) < 0.5


@torch.no_grad()
def _clipped(network: AetherNet, inputs: list[Tensor]) -> Tensor:
    return torch.cat([network(one) for one in inputs]).clamp(0, 1).double()


def test_work_counts_multiplications(prepared: Prepared) -> None:
    fused = prepared.fused
    ready = calibrate(fused, pictures=prepared.pictures[:1])

    measured = {one.unit: one.work for one in measure_sensitivity(ready).units}

    # Both are 3x3 convolutions at the input's size, the second with 64 / 16 times the output channels.
    ratio = fused.conv_before_upsample[0].out_channels / fused.conv_after_body.out_channels
    assert measured["conv_before_upsample"] / measured["conv_after_body"] == pytest.approx(ratio)


def test_a_budget_keeps_the_worst_part_float_and_is_kept() -> None:
    ready, bad = calibrated_with_a_bad_part(2)
    before = measure_sensitivity(ready).expected.psnr
    assert before is not None

    measured = measure_sensitivity(ready, budget_db=before + 2)

    assert bad in measured.kept_float
    assert len(measured.kept_float) < len(measured.units)
    assert measured.expected.psnr is not None
    assert measured.expected.psnr >= before + 2


def test_a_budget_that_is_kept_already_keeps_nothing_float(prepared: Prepared, measured: Sensitivity) -> None:
    ready = calibrate(prepared.fused, pictures=prepared.pictures)
    assert measured.expected.psnr is not None

    assert measure_sensitivity(ready, budget_db=measured.expected.psnr - 1).kept_float == ()


def test_what_stays_float_by_request_stays_float_under_a_budget(prepared: Prepared) -> None:
    ready = calibrate(prepared.fused, pictures=prepared.pictures)

    assert measure_sensitivity(ready, keep_float=["conv_after_body"], budget_db=1).kept_float == ("conv_after_body",)


def test_a_budget_out_of_reach_is_an_error_with_what_was_reached() -> None:
    ready = calibrate(fused_network(2), pictures=calibration_pictures(1))

    with pytest.raises(QuantizationError, match=r"within 90 dB .* found \d+\.\d dB") as raised:
        measure_sensitivity(ready, budget_db=90)

    assert "budget_db" in raised.value.hint


def test_the_choice_holds_for_the_network_made_with_it() -> None:
    """Estimated with parts switched off; measured on the network that is really made."""
    fused, pictures = fused_network(2), calibration_pictures()
    ready = calibrate(fused, pictures=pictures)
    before = measure_sensitivity(ready).expected.psnr
    assert before is not None
    measured = measure_sensitivity(ready, budget_db=before + 2)

    network = quantize(fused, pictures=pictures, keep_float=measured.kept_float).model

    inputs = [torch.from_numpy(picture) for picture in pictures]
    noise = float((_clipped(network, inputs) - _clipped(fused, inputs)).square().mean())
    assert measured.expected.psnr == pytest.approx(-10 * math.log10(noise), abs=1)


def test_the_calibrated_network_is_not_changed_but_for_its_switches(prepared: Prepared) -> None:
    ready = calibrate(prepared.fused, pictures=prepared.pictures)
    before = snapshot(ready.network)

    measure_sensitivity(ready, budget_db=1)

    assert same_tensors(snapshot(ready.network), before)
    assert all(not module._forward_hooks for module in ready.network.modules())


def test_without_pictures_there_is_nothing_to_measure() -> None:
    ready = calibrate(fused_network(2), pictures=calibration_pictures(1))

    with pytest.raises(CalibrationError, match="pictures to compare on"):
        measure_sensitivity(dataclasses.replace(ready, crops=()))


def test_the_chart_has_a_row_for_every_part(measured: Sensitivity) -> None:
    chart = np.asarray(sensitivity_chart(measured))

    red = (chart == (0xC8, 0x55, 0x3D)).all(axis=-1)
    rows = np.diff(red[60:].any(axis=1).astype(int))
    assert (rows == 1).sum() == len(measured.units)
