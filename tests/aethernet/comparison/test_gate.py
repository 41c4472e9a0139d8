"""The gate: every limit is judged, every failure named, and nothing broken gets through."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aethernet.comparison import (
    DEFAULT_LIMITS,
    Case,
    FormId,
    Limits,
    Measurement,
    Quality,
    compare_form,
    judge,
    measurement_table,
    outputs_of,
)
from aethernet.comparison.gate import NOISE_SIDE, failures_of
from aethernet.errors import GateError
from aethernet.networks import AetherNet
from aethernet.networks.fusion import fuse
from aethernet.precision import Precision
from aethernet.runtimes.protocol import Runtime
from aethernet.runtimes.pytorch import TorchRuntime
from tests.support.networks import tiny_network
from tests.support.pictures import natural_picture
from tests.support.runtimes import FunctionRuntime, enlarged

FP32, FP16, INT8 = Precision
STRICT = Limits(
    max_abs_of_range=1e-4,
    max_reference_range=100,
    min_psnr=80,
    max_level=1,
    max_signed_mean=0.001,
    max_hr_loss=0.01,
)


def form(precision: Precision = FP32, file: str = "network.onnx") -> FormId:
    return FormId(precision=precision, file=file, runtime="onnxruntime-cpu")


def measurement(precision: Precision = FP32, **changes: Any) -> Measurement:
    """One that passes every limit above, but for the changes."""
    values: dict[str, Any] = {
        "form": form(precision),
        "case": "odd 17x31",
        "picture": "odd",
        "shape": (1, 17, 31),
        "finite": True,
        "reference_range": 2.0,
        "max_abs": 1e-4,
        "mean_abs": 1e-5,
        "signed_mean": (0.0005, -0.001, 0.0),
        "psnr": 90.0,
        "ssim": 1.0,
        "levels_equal": 0.99,
        "levels_off_by_1": 0.01,
        "levels_off_by_2_or_more": 0.0,
        "levels_largest": 1,
    }
    return Measurement(**values | changes)


def quality(name: str, psnr: float | None, precision: Precision | None = None, picture: str = "7") -> Quality:
    return Quality(
        form=name, precision=precision, picture=picture, psnr_rgb=psnr, ssim_rgb=0.9, psnr_y=31, ssim_y=0.9, border=2
    )


# --- one measurement -------------------------------------------------------------------------------------------------


def test_measurement_inside_every_limit_has_no_failure() -> None:
    assert failures_of(measurement(), STRICT) == []


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"max_abs": 2.1e-4}, "largest difference 0.00021 > 0.0002"),
        ({"psnr": 79.99}, "PSNR 79.99 dB < 80 dB"),
        ({"levels_largest": 2}, "off by 2 levels > 1"),
        ({"signed_mean": (0.0, 0.0, -0.002), "shape": (1, 64, 64)}, "channel shift 0.510 levels > 0.255"),
        ({"finite": False}, "the output holds NaN or infinity"),
        ({"problem": "could not be run: no"}, "could not be run: no"),
        ({"reference_range": 1.6e34}, "the trained network itself diverges: it spans 1.6e+34 > 100"),
    ],
    ids=["difference", "psnr", "level", "tint", "no number", "problem", "divergence"],
)
def test_each_missed_limit_is_named_with_both_numbers(changes: dict[str, Any], failure: str) -> None:
    assert failures_of(measurement(**changes), STRICT) == [failure]


def test_all_missed_limits_are_named_at_once() -> None:
    bad = measurement(max_abs=1, psnr=20, levels_largest=9, signed_mean=(0.1, 0, 0), shape=(1, 64, 64))

    assert len(failures_of(bad, STRICT)) == 4


@pytest.mark.parametrize(
    "changes", [{"max_abs": 2e-4}, {"psnr": 80.0}, {"levels_largest": 1}, {"reference_range": 100.0}]
)
def test_value_exactly_at_its_limit_passes(changes: dict[str, Any]) -> None:
    assert failures_of(measurement(**changes), STRICT) == []


def test_identical_output_passes_the_psnr_limit() -> None:
    assert failures_of(measurement(psnr=None), STRICT) == []


@pytest.mark.parametrize(
    ("height", "width", "asked"),
    [
        (NOISE_SIDE - 1, 64, False),
        (64, NOISE_SIDE - 1, False),
        (1, 1, False),
        (NOISE_SIDE, NOISE_SIDE, True),
        (64, 64, True),
    ],
)
def test_agreement_is_asked_of_inputs_that_are_not_small(height: int, width: int, asked: bool) -> None:
    """Whatever the number of pictures in a batch."""
    limits = Limits(min_agreement=0.999)
    for batch in (1, 32):
        apart = measurement(INT8, shape=(batch, height, width), agreement=0.5)
        assert failures_of(apart, limits) == (["agrees with its sibling on 50.0000% < 99.9000%"] if asked else [])
        assert failures_of(apart.model_copy(update={"agreement": 0.999}), limits) == []


def test_first_file_of_a_precision_agrees_with_nothing_and_passes() -> None:
    assert failures_of(measurement(INT8, shape=(1, 64, 64), agreement=None), Limits(min_agreement=0.999)) == []


def test_flat_reference_is_judged_by_the_range_of_pictures() -> None:
    assert failures_of(measurement(reference_range=0.0, max_abs=1e-4), STRICT) == []
    assert failures_of(measurement(reference_range=0.0, max_abs=1.1e-4), STRICT) != []


def test_a_network_that_diverges_is_not_released_however_closely_its_files_follow_it() -> None:
    wild = [measurement(precision, reference_range=1e4, max_abs=0.0, psnr=None) for precision in (FP32, FP16)]

    with pytest.raises(GateError, match="the trained network itself diverges: it spans 1e\\+04 > 100"):
        judge(wild, [], DEFAULT_LIMITS, required=[])


def test_without_limits_only_what_is_no_picture_fails() -> None:
    terrible = {"max_abs": 100.0, "psnr": 1.0, "levels_largest": 255, "signed_mean": (1.0,)}

    assert failures_of(measurement(**terrible), Limits()) == []
    assert failures_of(measurement(finite=False), Limits()) != []
    assert failures_of(measurement(problem="no"), Limits()) != []


@pytest.mark.parametrize("limits", [{"min_psnr": 0}, {"max_abs_of_range": -1}, {"max_level": -1}, {"max_ssim": 1}])
def test_limit_that_makes_no_sense_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Limits(**limits)


# --- a release -------------------------------------------------------------------------------------------------------


def test_forms_that_pass_are_accepted_in_the_order_of_precisions() -> None:
    measurements = [measurement(FP16), measurement(FP32)]

    acceptance = judge(measurements, [], DEFAULT_LIMITS, required=[])

    assert acceptance.accepted == (FP32, FP16)
    assert acceptance.skipped == {}


def test_form_nobody_asked_for_is_left_out_with_its_reasons() -> None:
    measurements = [measurement(FP32), measurement(FP16, psnr=50.0, levels_largest=3)]

    acceptance = judge(measurements, [], DEFAULT_LIMITS, required=[])

    assert acceptance.accepted == (FP32,)
    assert acceptance.skipped == {
        FP16: "network.onnx on odd 17x31: PSNR 50.00 dB < 60 dB; network.onnx on odd 17x31: off by 3 levels > 2"
    }


def test_form_that_was_asked_for_must_pass() -> None:
    measurements = [measurement(FP32), measurement(FP16, psnr=50.0)]

    with pytest.raises(GateError, match=r"fp16 must pass and did not: fp16: network.onnx on odd 17x31: PSNR 50.00 dB"):
        judge(measurements, [], DEFAULT_LIMITS, required=[FP16])


def test_fp32_must_pass_whether_asked_for_or_not() -> None:
    with pytest.raises(GateError, match=r"^fp32 must pass"):
        judge([measurement(FP32, finite=False), measurement(FP16)], [], DEFAULT_LIMITS, required=[FP16])


def test_release_without_fp32_fails() -> None:
    with pytest.raises(GateError, match="fp32: no form of it was compared"):
        judge([measurement(FP16)], [], DEFAULT_LIMITS, required=[])


def test_precision_that_could_not_be_made_is_left_out_with_the_reason() -> None:
    acceptance = judge([measurement()], [], DEFAULT_LIMITS, required=[], not_made={INT8: "no CUDA device"})

    assert (acceptance.accepted, acceptance.skipped) == ((FP32,), {INT8: "no CUDA device"})


def test_precision_that_was_asked_for_and_could_not_be_made_fails_with_the_reason() -> None:
    with pytest.raises(GateError, match="int8: no CUDA device"):
        judge([measurement()], [], DEFAULT_LIMITS, required=[INT8], not_made={INT8: "no CUDA device"})


def test_one_bad_file_of_a_precision_fails_the_precision() -> None:
    bad = measurement(FP16, form=form(FP16, "network.safetensors"), problem="could not be run: no")

    acceptance = judge([measurement(FP32), measurement(FP16), bad], [], DEFAULT_LIMITS, required=[])

    assert acceptance.accepted == (FP32,)
    assert acceptance.skipped == {FP16: "network.safetensors on odd 17x31: could not be run: no"}


def test_error_names_several_precisions_and_counts_what_it_leaves_out() -> None:
    bad = [measurement(precision, case=f"case {n}", psnr=10.0) for precision in (FP32, FP16) for n in range(5)]

    with pytest.raises(GateError, match=r"^fp16, fp32 must pass and did not: .*; and 4 more$"):
        judge(bad, [], DEFAULT_LIMITS, required=[FP16])


def test_error_carries_every_number_of_every_form() -> None:
    measurements = [measurement(FP32, case="good"), measurement(FP16, case="bad", psnr=12.34), measurement(FP32)]
    entries = [quality("reference", 30.0), quality("network.onnx", 28.5, FP16)]

    with pytest.raises(GateError) as caught:
        judge(measurements, entries, DEFAULT_LIMITS, required=[FP16])

    assert caught.value.table == measurement_table(measurements, entries, DEFAULT_LIMITS)
    for text in ("| good |", "| bad |", "| odd 17x31 |", "12.34", "PSNR 12.34 dB < 60 dB |", "passes |", "28.50"):
        assert text in caught.value.table


def test_table_has_as_many_cells_in_every_row_as_in_its_head() -> None:
    rows = measurement_table([measurement(), measurement(problem="no")], [], DEFAULT_LIMITS).splitlines()

    assert {row.count("|") for row in rows} == {10}


def test_table_says_identical_where_there_is_no_psnr_and_nothing_where_nothing_was_measured() -> None:
    table = measurement_table([measurement(psnr=None)], [], DEFAULT_LIMITS)
    broken = measurement_table([Measurement(form=form(), case="c", picture="p", shape=(1, 1, 1))], [], DEFAULT_LIMITS)

    assert "| identical |" in table
    assert "identical" not in broken


# --- against HR pictures ---------------------------------------------------------------------------------------------


def test_loss_against_hr_is_held_against_the_reference() -> None:
    entries = [quality("reference", 30.0), quality("bicubic", 27.0), quality("network.onnx", 29.9, FP32)]

    with pytest.raises(GateError, match=r"fp32: network.onnx on 7: loses 0.100 dB against HR > 0.01 dB"):
        judge([measurement()], entries, DEFAULT_LIMITS, required=[])


def test_gain_against_hr_is_no_loss() -> None:
    entries = [quality("reference", 30.0), quality("network.onnx", 30.5, FP32)]

    assert judge([measurement()], entries, DEFAULT_LIMITS, required=[]).accepted == (FP32,)


def test_each_picture_is_judged_on_its_own() -> None:
    """A gain on one does not pay for a loss on another."""
    entries = [
        quality("reference", 30.0, picture="7"),
        quality("reference", 30.0, picture="8"),
        quality("network.onnx", 31.0, FP32, picture="7"),
        quality("network.onnx", 29.5, FP32, picture="8"),
    ]

    with pytest.raises(GateError, match=r"network\.onnx on 8: loses"):
        judge([measurement()], entries, DEFAULT_LIMITS, required=[])


def test_loss_limit_can_be_switched_off() -> None:
    entries = [quality("reference", 30.0), quality("network.onnx", 20.0, FP32)]

    assert judge([measurement()], entries, {FP32: Limits()}, required=[]).accepted == (FP32,)


# --- negative controls -----------------------------------------------------------------------------------------------


CASES = [
    Case(
        name=f"{batch}x{side}x{side + 3}",
        picture="p",
        input=natural_picture(side, side + 3, batch=batch).numpy(),
        window=None,
    )
    for batch, side in ((1, 17), (2, 12), (1, 1))
]


@pytest.fixture(scope="module")
def network() -> AetherNet:
    """The training form."""
    return tiny_network(2, depths=(1, 1), channel_attention=True)


@pytest.fixture(scope="module")
def reference(network: AetherNet) -> dict[str, np.ndarray]:
    return outputs_of(TorchRuntime(network), CASES)


def verdict(runtime: Runtime, reference: dict[str, np.ndarray], limits: Limits = DEFAULT_LIMITS[FP32]) -> str:
    """What the gate says about one form: nothing when it passes."""
    measurements, _ = compare_form(form(), runtime, reference, CASES)
    try:
        judge(measurements, [], {FP32: limits}, required=[])
    except GateError as error:
        return str(error)
    return ""


@torch.no_grad()
def perturbed(network: nn.Module, name: str, change: Callable[[float], float]) -> nn.Module:
    """A copy with one weight changed: the largest of the tensor."""
    result = copy.deepcopy(network)
    weights = result.get_parameter(name).view(-1)
    place = int(weights.abs().argmax())
    weights[place] = change(float(weights[place]))
    return result


class SwappedChannels(nn.Module):
    """Blue for red, as who reads pictures with another library."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.network(x.flip(1)).flip(1)
        return y


def test_fused_network_passes_the_gate(network: AetherNet, reference: dict[str, np.ndarray]) -> None:
    assert verdict(TorchRuntime(fuse(network)), reference) == ""


@pytest.mark.parametrize(
    "name",
    [
        "conv_first.weight",
        "stages.0.0.conv.fused_conv.weight",
        "stages.1.0.ffn.conv_out.weight",
        "quant_fusion_layer.fusion_conv.weight",
        "upsample.blocks.0.weight",
        "conv_last.weight",
    ],
)
def test_one_weight_off_by_five_percent_fails_the_gate(
    network: AetherNet, reference: dict[str, np.ndarray], name: str
) -> None:
    wrong = perturbed(fuse(network), name, lambda weight: 1.05 * weight)

    assert "largest difference" in verdict(TorchRuntime(wrong), reference)


def test_one_weight_that_is_no_number_fails_the_gate(network: AetherNet, reference: dict[str, np.ndarray]) -> None:
    wrong = perturbed(fuse(network), "stages.0.0.ffn.conv_main.weight", lambda weight: float("nan"))

    assert "the output holds NaN or infinity" in verdict(TorchRuntime(wrong), reference)


def test_swapped_colours_fail_the_gate(network: AetherNet, reference: dict[str, np.ndarray]) -> None:
    assert "largest difference" in verdict(TorchRuntime(SwappedChannels(fuse(network))), reference)


def test_network_of_another_scale_fails_the_gate(reference: dict[str, np.ndarray]) -> None:
    other = tiny_network(2, depths=(1, 1), channel_attention=True, scale=3)

    assert "expected an output of shape (1, 3, 34, 40), found (1, 3, 51, 60)" in verdict(TorchRuntime(other), reference)


def test_networks_of_two_trainings_fail_the_gate(reference: dict[str, np.ndarray]) -> None:
    other = tiny_network(2, depths=(1, 1), channel_attention=True, seed=1)

    assert "largest difference" in verdict(TorchRuntime(other), reference)


@pytest.mark.parametrize(("levels", "fails"), [(0.02, False), (3, True), (-3, True)])
def test_shift_of_three_levels_fails_the_fp16_gate(levels: float, fails: bool) -> None:
    reference = outputs_of(FunctionRuntime(lambda picture: 0.1 + 0.8 * enlarged(picture)), CASES)
    shifted = FunctionRuntime(lambda picture: 0.1 + 0.8 * enlarged(picture) + np.float32(levels / 255))

    assert ("off by 3 levels > 2" in verdict(shifted, reference, DEFAULT_LIMITS[FP16])) == fails


def test_three_levels_in_a_single_value_fail_the_fp16_gate() -> None:
    """PSNR alone forgives them."""
    large = [Case(name="large", picture="p", input=natural_picture(200, 200).numpy(), window=None)]
    reference = {"large": np.full((1, 3, 400, 400), 0.4, dtype=np.float32)}

    def speck(picture: np.ndarray) -> np.ndarray:
        output = np.full((1, 3, 400, 400), 0.4, dtype=np.float32)
        output[0, 1, 7, 9] += np.float32(3 / 255)
        return output

    measurements, _ = compare_form(form(FP16), FunctionRuntime(speck), reference, large)

    assert failures_of(measurements[0], DEFAULT_LIMITS[FP16]) == ["off by 3 levels > 2"]
