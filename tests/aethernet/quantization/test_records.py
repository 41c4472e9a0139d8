"""Ranges that training recorded are found in every form of record, and lead to the right quantisers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aethernet.checkpoint import load
from aethernet.networks.fusion import fuse
from aethernet.quantization.calibration import TensorHistogram, watch
from aethernet.quantization.records import QuantizationRecords, Range, recorded_ranges, usable_records
from aethernet.quantization.structure import quantizers_of, restructure
from tests.support.quantization import fused_network, slopes_of

CASES = ("v1_qat_x2", "v2_qat_x2", "v3_qat_x2", "v1_packed_int8_x2")
SLOPE = 1.65

PLACE = "activation_post_process"


def qat(tensors: Mapping[str, float | list[float]], origin: str = "qat") -> QuantizationRecords:
    return QuantizationRecords(origin=origin, tensors={name: torch.tensor(value) for name, value in tensors.items()})


def observer(module: str, low: float, high: float) -> dict[str, float]:
    return {f"{module}.{PLACE}.min_val": low, f"{module}.{PLACE}.max_val": high, f"{module}.{PLACE}.eps": 1e-7}


def fake_quantiser(module: str, low: float, high: float, scale: float, point: int) -> dict[str, Any]:
    place = f"{module}.{PLACE}"
    return observer(place, low, high) | {
        f"{place}.scale": [scale],
        f"{place}.zero_point": [point],
        f"{place}.fake_quant_enabled": [1],
        f"{place}.observer_enabled": [0],
    }


def test_a_plain_observer_tells_its_extremes() -> None:
    assert usable_records(qat(observer("conv", -1.5, 2.0))) == {"conv": (-1.5, 2.0)}


def test_a_fake_quantiser_tells_the_extremes_its_observer_saw() -> None:
    assert usable_records(qat(fake_quantiser("conv", -1.5, 2.0, 0.9, 3))) == {"conv": (-1.5, 2.0)}


def test_both_kinds_may_be_mixed() -> None:
    records = qat(observer("first", -1.0, 1.0) | fake_quantiser("body.second", -2.0, 0.5, 0.01, 90))

    assert usable_records(records) == {"first": (-1.0, 1.0), "body.second": (-2.0, 0.5)}


def test_a_fake_quantiser_without_an_observer_tells_its_range_by_its_scale() -> None:
    place = f"conv.{PLACE}"

    found = usable_records(qat({f"{place}.scale": [0.5], f"{place}.zero_point": [200]}))

    assert found == {"conv": (-100.0, 27.5)}


@pytest.mark.parametrize(("low", "high"), [(math.inf, -math.inf), (math.nan, math.nan), (0.0, 0.0), (1.0, -1.0)])
def test_an_observer_without_data_is_left_out(low: float, high: float) -> None:
    records = qat(observer("idle", low, high) | observer("busy", -1.0, 1.0))

    assert usable_records(records) == {"busy": (-1.0, 1.0)}


def test_an_observer_per_channel_is_left_out() -> None:
    records = qat({f"conv.{PLACE}.min_val": [-1.0, -2.0], f"conv.{PLACE}.max_val": [1.0, 2.0]})

    assert usable_records(records) == {}


def test_a_fake_quantiser_that_never_saw_data_is_left_out() -> None:
    idle = torch.ao.quantization.FakeQuantize()
    tensors: dict[str, Tensor] = {f"idle.{PLACE}.{name}": tensor for name, tensor in idle.state_dict().items()}

    assert usable_records(QuantizationRecords(origin="qat", tensors=tensors)) == {}


def test_records_of_weights_are_left_out() -> None:
    weights = {f"conv.weight_fake_quant.{PLACE}.min_val": -1.0, f"conv.weight_fake_quant.{PLACE}.max_val": 1.0}

    assert usable_records(qat(weights | observer("conv", -3.0, 3.0))) == {"conv": (-3.0, 3.0)}


def test_a_converted_file_in_7_bits_is_recognised_by_its_zero_points() -> None:
    records = qat({"a.scale": 0.1, "a.zero_point": 64, "b.scale": 0.2, "b.zero_point": 0}, "converted")

    assert usable_records(records) == {"a": pytest.approx((-6.4, 6.3)), "b": pytest.approx((0, 25.4))}


def test_a_converted_file_in_8_bits_is_recognised_by_its_zero_points() -> None:
    records = qat({"a.scale": 0.1, "a.zero_point": 128, "b.scale": 0.2, "b.zero_point": 0}, "converted")

    assert usable_records(records) == {"a": pytest.approx((-12.8, 12.7)), "b": pytest.approx((0, 51))}


@pytest.mark.parametrize("scale", [0.0, -0.1, math.inf, math.nan])
def test_an_impossible_scale_is_left_out(scale: float) -> None:
    assert usable_records(qat({"a.scale": scale, "a.zero_point": 3}, "converted")) == {}


def test_scales_beside_the_weights_count_in_converted_files_only() -> None:
    assert usable_records(qat({"a.scale": 0.1, "a.zero_point": 64})) == {}


def test_the_slope_that_was_folded_in_widens_the_range_of_the_gate_alone() -> None:
    fused = fused_network(1)
    slopes = slopes_of(fused, 2.0)
    unit = "layers.0.0.ffn"
    records = qat(observer(f"{unit}.fc1_gate", -1.0, 3.0) | observer(f"{unit}.fc1_main", -1.0, 3.0))

    found = recorded_ranges(records, restructure(fused, slopes=slopes), slopes)

    assert found == {
        f"{unit}.conv_gate.output": ((-2.0, 6.0), f"{unit}.fc1_gate"),
        f"{unit}.conv_main.output": ((-1.0, 3.0), f"{unit}.fc1_main"),
    }


def test_the_fusion_needs_the_records_of_all_its_shares() -> None:
    network = restructure(fused_network(2))
    name = "quant_fusion_layer.fusion_conv.input"
    one, other = observer("fusion_convs.0", -1.0, 3.0), observer("fusion_convs.1", -2.0, 1.0)

    assert name not in recorded_ranges(qat(one), network, {})
    assert recorded_ranges(qat(one | other), network, {})[name] == ((-2.0, 3.0), "fusion_convs.0, fusion_convs.1")


# --- the published checkpoints ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=CASES)
def recorded_and_seen(
    request: pytest.FixtureRequest, shared_data: Path
) -> dict[str, tuple[Range, str, TensorHistogram]]:
    """Quantiser -> the range recorded for it, by what, and what it sees on the case's own input."""
    folder = shared_data / "parity"
    if not (folder / f"{request.param}.pth").is_file():
        pytest.skip(f"needs {request.param} in shared/data beside the repository")
    loaded = load(folder / f"{request.param}.pth")
    with np.load(folder / f"{request.param}.npz") as arrays:
        picture = arrays["input"]
    assert loaded.quantization is not None
    fused = fuse(loaded.model)
    slopes = slopes_of(fused, SLOPE)
    network = restructure(fused, slopes=slopes)
    known = recorded_ranges(loaded.quantization, network, slopes)
    points: dict[str, nn.Module] = dict(quantizers_of(network))
    assert known.keys() <= points.keys()
    seen = watch(network, points, [picture])
    return {name: (*known[name], seen[name]) for name in known}


def misfit(recorded: Range, seen: TensorHistogram) -> str:
    """Why a record cannot be that of a tensor, or nothing.

    The input is noise that training never saw, so its rarest extremes, one value in a thousand, may lie outside.
    """
    low, high = recorded
    inside = (seen.centres >= 1.15 * low) & (seen.centres <= 1.15 * high)
    outside = 1 - seen.counts[inside].sum() / seen.counts.sum()
    if outside > 1e-3:
        return f"{outside:.2%} of what is seen lies outside {recorded}"
    wider = (high - low) / (seen.high - seen.low)
    return f"{recorded} is {wider:.2f} times as wide as what is seen" if wider > 1.3 else ""


def test_what_training_recorded_encloses_what_the_network_shows(
    recorded_and_seen: dict[str, tuple[Range, str, TensorHistogram]],
) -> None:
    """Recorded ranges fit closely, from both sides: each is that of the very tensor it is used for."""
    wrong = {name: misfit(one, seen) for name, (one, _, seen) in recorded_and_seen.items()}

    assert len(wrong) >= 9
    assert {name: why for name, why in wrong.items() if why} == {}


def test_records_of_a_neighbour_would_not_fit(
    recorded_and_seen: dict[str, tuple[Range, str, TensorHistogram]],
) -> None:
    """The control: the same comparison, every record given to the quantiser after its own."""
    names = list(recorded_and_seen)
    shifted = zip(names, [*names[1:], names[0]], strict=True)

    wrong = [name for name, after in shifted if misfit(recorded_and_seen[name][0], recorded_and_seen[after][2])]

    assert len(wrong) > len(names) / 3


def test_most_quantisers_have_a_record(recorded_and_seen: dict[str, tuple[Range, str, TensorHistogram]]) -> None:
    """The gates' convolutions, the features after the body, the tail: where ranges matter most."""
    wanted = ("conv_main.output", "conv_after_body.output", "conv_before_upsample.0.output")

    assert [ending for ending in wanted if not any(name.endswith(ending) for name in recorded_and_seen)] == []
