"""From a float network to an int8 network in one call."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aethernet.errors import CalibrationError, QuantizationError
from aethernet.networks import AetherNet
from aethernet.networks.fusion import fuse
from aethernet.quantization.calibration import Method, watch
from aethernet.quantization.post_training import Quantized, quantize
from aethernet.quantization.records import QuantizationRecords, recorded_ranges
from aethernet.quantization.scheme import WEIGHT_MAX, activation_scale
from aethernet.quantization.structure import convs_of, quantizers_of, restructure, units_of
from tests.support.images import natural_image
from tests.support.networks import tiny_network
from tests.support.quantization import (
    Prepared,
    calibration_images,
    decibels,
    fused_network,
    same_tensors,
    snapshot,
)

DECIBELS = 36
"""A floor, with the image's range as peak. Random networks of 16 channels gave 39 to 51 dB over two seeds: little
averages out in so few channels, and trained networks are calmer than random ones."""


@pytest.fixture(scope="module")
def finished(prepared: Prepared) -> Quantized:
    return quantize(prepared.fused, images=prepared.images)


def records_of(network: AetherNet, widening: float = 1.0) -> QuantizationRecords:
    """What training generation 2 records, for every place the library asks for, from watching the network itself."""
    points: dict[str, nn.Module] = dict(quantizers_of(network))
    seen = watch(network, points, calibration_images())
    probe = QuantizationRecords(origin="qat", tensors={})
    sources = everything_asked_for(probe, network)
    tensors = {}
    for quantizer, source in sources.items():
        for module in source.split(", "):
            place = f"{module}.activation_post_process"
            tensors[f"{place}.min_val"] = torch.tensor(seen[quantizer].low * widening)
            tensors[f"{place}.max_val"] = torch.tensor(seen[quantizer].high * widening)
    return QuantizationRecords(origin="qat", tensors=tensors)


def everything_asked_for(records: QuantizationRecords, network: AetherNet) -> dict[str, str]:
    """Quantiser -> the records it would take, were there any."""

    class Anything(dict[str, tuple[float, float]]):
        def __contains__(self, key: object) -> bool:
            return True

        def __missing__(self, key: str) -> tuple[float, float]:
            return (-1.0, 1.0)

    module = importlib.import_module("aethernet.quantization.records")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "usable_records", lambda _records: Anything())
        return {name: source for name, (_, source) in recorded_ranges(records, network, {}).items()}


@pytest.fixture(scope="module")
def second() -> AetherNet:
    """At scale 4, where the upsampler holds a convolution that is quantised."""
    return fused_network(2, scale=4, depths=(1, 1))


@pytest.fixture(scope="module")
def records(second: AetherNet) -> QuantizationRecords:
    return records_of(restructure(second))


@torch.no_grad()
def test_the_image_stays_near_the_float_one(prepared: Prepared, finished: Quantized) -> None:
    image = natural_image(24, 20, seed=9)

    found = decibels(finished.model(image), prepared.fused(image))

    assert found > DECIBELS


def test_every_weight_lies_on_its_grid_and_pairs_fit(finished: Quantized) -> None:
    for name, conv in convs_of(finished.model):
        q = conv.weight / conv.weight_scale.view(-1, 1, 1, 1)
        torch.testing.assert_close(q, q.round(), rtol=0, atol=1e-3, msg=name)
        assert q.abs().max() <= WEIGHT_MAX + 1e-3, name
        even = q[:, : q.shape[1] // 2 * 2].round().reshape(len(q), -1, 2, *q.shape[2:])
        assert even.clamp(min=0).sum(2).max() <= 128, name
        assert even.clamp(max=0).sum(2).min() >= -128, name


def test_every_float_weight_is_one_that_half_precision_can_hold(finished: Quantized) -> None:
    quantised = tuple(f"{name}." for name, _ in convs_of(finished.model))
    for name, parameter in finished.model.named_parameters():
        if not name.startswith(quantised) and not name.endswith(".scale"):
            assert torch.equal(parameter, parameter.half().float()), name


def test_every_activation_is_reported_with_its_scale_and_source(prepared: Prepared, finished: Quantized) -> None:
    scales = {name: float(one.scale) for name, one in quantizers_of(finished.model).items()}

    assert {one.name: one.scale for one in finished.tensors} == scales
    for one in finished.tensors:
        assert one.source.startswith("pictures: ") != one.name.endswith(".sigmoid"), one
        assert one.source == "derived" or one.source.removeprefix("pictures: ") in set(Method) - {Method.BEST}, one
    assert set(finished.keep_float) < set(units_of(prepared.fused))
    assert (finished.slope is not None) == (prepared.generation == 1)
    assert finished.channel_shift_removed is not None


def test_the_grid_of_a_sigmoid_reaches_as_far_as_its_gate_can_go(finished: Quantized) -> None:
    scales = {one.name: one.scale for one in finished.tensors}
    sigmoids = [name for name in scales if name.endswith(".sigmoid")]

    assert sigmoids
    for name in sigmoids:
        highest = 127 * scales[name.replace(".sigmoid", ".conv_gate.output")]
        assert 127 * scales[name] == pytest.approx(float(torch.tensor(highest).sigmoid()), rel=2**-10)


def test_the_tint_is_gone(prepared: Prepared, finished: Quantized) -> None:
    batch = torch.from_numpy(np.concatenate(prepared.images))
    with torch.no_grad():
        difference = (finished.model(batch) - prepared.fused(batch)).mean(dim=(0, 2, 3))

    assert difference.abs().max() < 1e-3


@pytest.mark.usefixtures("finished")
def test_the_given_network_is_left_untouched(prepared: Prepared) -> None:
    assert same_tensors(snapshot(prepared.fused), snapshot(fused_network(prepared.generation)))
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in prepared.fused.modules())


def test_the_same_seed_gives_the_same_network(monkeypatch: pytest.MonkeyPatch, second: AetherNet) -> None:
    monkeypatch.setattr(importlib.import_module("aethernet.quantization.post_training"), "CROP_SIDE", 12)

    one, same, other = (quantize(second, images=calibration_images(2), seed=seed) for seed in (4, 4, 5))

    assert one.tensors == same.tensors
    assert same_tensors(snapshot(one.model), snapshot(same.model))
    assert not same_tensors(snapshot(one.model), snapshot(other.model))  # the control: crops differ


def test_neither_records_nor_images_is_an_error(second: AetherNet) -> None:
    with pytest.raises(CalibrationError, match="found neither"):
        quantize(second)
    with pytest.raises(CalibrationError, match="found neither"):
        quantize(second, fallback=calibration_images(1))


def test_records_without_a_usable_range_are_an_error(second: AetherNet) -> None:
    place = "conv_after_body.activation_post_process"
    idle = {f"{place}.min_val": torch.tensor(torch.inf), f"{place}.max_val": torch.tensor(-torch.inf)}

    with pytest.raises(CalibrationError, match="no usable range"):
        quantize(second, records=QuantizationRecords(origin="qat", tensors=idle), fallback=calibration_images(1))


def test_records_that_leave_something_open_need_images(second: AetherNet, records: QuantizationRecords) -> None:
    with pytest.raises(CalibrationError, match="images"):
        quantize(second, records=records)


@torch.no_grad()
def test_records_with_a_fallback_are_used_where_there_is_one(second: AetherNet, records: QuantizationRecords) -> None:
    finished = quantize(second, records=records, fallback=calibration_images(), keep_float=())

    sources = {one.name: one.source for one in finished.tensors}
    assert sources["stages.0.0.ffn.conv_main.output"] == "records: stages.0.0.ffn.conv_main"
    assert sources["quant_fusion_layer.fusion_conv.input"] == "records: fusion_convs.0, fusion_convs.1"
    assert sources["conv_before_upsample.0.input"].startswith("pictures: ")
    # Rescaled after they were recorded.
    assert sources["conv_before_upsample.0.output"].startswith("pictures: ")
    assert sources["conv_before_upsample.2"].startswith("pictures: ")
    assert sources["upsample.blocks.0.output"].startswith("pictures: ")
    image = natural_image(24, 20, seed=9)
    assert decibels(finished.model(image), second(image)) > DECIBELS


def test_the_scale_of_a_record_covers_what_was_recorded(second: AetherNet, records: QuantizationRecords) -> None:
    finished = quantize(second, records=records, fallback=calibration_images(1))

    low, high = (
        float(records.tensors[f"stages.0.0.ffn.conv_main.activation_post_process.{end}_val"]) for end in ("min", "max")
    )
    scale = next(one.scale for one in finished.tensors if one.name == "stages.0.0.ffn.conv_main.output")
    assert scale == pytest.approx(activation_scale(low, high))


def test_records_alone_are_enough_where_they_know_every_tensor(second: AetherNet, records: QuantizationRecords) -> None:
    keep = [unit for unit in units_of(second) if unit not in ("quant_fusion_layer", "conv_after_body")]

    finished = quantize(second, records=records, keep_float=keep)

    assert {one.source.split(":")[0] for one in finished.tensors} == {"records"}
    assert finished.keep_float == tuple(keep)
    assert finished.channel_shift_removed is None


def test_where_both_know_a_tensor_the_one_with_less_error_wins(second: AetherNet) -> None:
    far_too_wide = records_of(restructure(second), widening=20)

    finished = quantize(second, records=far_too_wide, images=calibration_images())

    told = [one.source for one in finished.tensors if "record" in one.source]
    assert told
    assert all("less error than the record of" in source for source in told)


@pytest.mark.parametrize("method", [Method.MIN_MAX, Method.PERCENTILE, Method.ERROR])
def test_the_method_asked_for_is_used(second: AetherNet, method: Method) -> None:
    finished = quantize(second, images=calibration_images(1), method=method)

    assert {one.source for one in finished.tensors} == {f"pictures: {method}", "derived"}


def test_parts_kept_float_are_named(second: AetherNet) -> None:
    kept = units_of(second)[::2]

    finished = quantize(second, images=calibration_images(1), keep_float=kept[::-1])

    assert finished.keep_float == tuple(kept)
    assert not [name for name, _ in convs_of(finished.model) if name.startswith(tuple(kept))]


@pytest.mark.parametrize("keep", [["conv_lost"], "everything"])
def test_an_impossible_request_is_an_error(second: AetherNet, keep: Any) -> None:
    with pytest.raises(QuantizationError):
        quantize(second, images=calibration_images(1), keep_float=units_of(second) if keep == "everything" else keep)


@pytest.mark.parametrize(("generation", "changes"), [(1, {"scale": 4}), (2, {"scale": 1}), (3, {"in_channels": 1})])
@torch.no_grad()
def test_other_shapes_work_as_well(generation: int, changes: dict[str, int]) -> None:
    fused = fused_network(generation, depths=(1, 1), **changes)
    channels = changes.get("in_channels", 3)
    images = [natural_image(20, 20, channels=channels, seed=seed).numpy() for seed in range(2)]

    finished = quantize(fused, images=images)

    image = natural_image(24, 20, channels=channels, seed=9)
    assert decibels(finished.model(image), fused(image)) > DECIBELS


def test_images_of_several_sizes_will_do(second: AetherNet) -> None:
    images = [natural_image(*size).numpy() for size in ((20, 16), (12, 30), (20, 16), (7, 7))]

    assert quantize(second, images=images).channel_shift_removed is not None


def test_a_part_left_float_unasked_keeps_the_other_grids(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("aethernet.quantization.post_training")
    unit = units_of(prepared.fused)[0]
    everything = quantize(prepared.fused, images=prepared.images, keep_float=())
    monkeypatch.setattr(module, "out_of_proportion", lambda _ready: (unit,))

    finished = quantize(prepared.fused, images=prepared.images)

    before = {one.name: one.scale for one in everything.tensors}
    after = {one.name: one.scale for one in finished.tensors}
    assert finished.keep_float == (unit,)
    assert after == {name: scale for name, scale in before.items() if not name.startswith(f"{unit}.")}


@pytest.mark.parametrize("unit", ["upsample.blocks.0", "conv_before_upsample"])
def test_where_a_float_part_makes_a_new_grid_necessary_it_is_calibrated(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("aethernet.quantization.post_training")
    network = fuse(tiny_network(2, scale=8, depths=(1,)))
    monkeypatch.setattr(module, "out_of_proportion", lambda _ready: (unit,))

    finished = quantize(network, images=calibration_images(1))

    assert finished.keep_float == (unit,)
    assert {f"{name}.scale" for name in quantizers_of(finished.model)} <= dict(finished.model.named_parameters()).keys()
    assert {one.name for one in finished.tensors} == quantizers_of(finished.model).keys()
