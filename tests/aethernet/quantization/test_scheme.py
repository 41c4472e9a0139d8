"""The grid: both ends of a range fit on it, and no pair of neighbouring weights can overflow 16 bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aethernet.quantization.scheme import (
    ACTIVATION_MAX,
    ACTIVATION_MIN,
    PAIR_MAX,
    WEIGHT_MAX,
    activation_scale,
    weight_scale,
)

ends = st.floats(-1e4, 1e4, allow_subnormal=False)
HALF = 2**-10
"""Scales are rounded up to numbers that half precision holds."""

SHAPES = [(4, 8, 3, 3), (4, 7, 3, 3), (3, 1, 3, 3), (5, 2, 1, 1), (5, 9, 1, 1), (1, 1, 1, 1)]


def integers(weight: Tensor) -> Tensor:
    scale = weight_scale(weight).view(-1, 1, 1, 1)
    return torch.fake_quantize_per_channel_affine(
        weight, scale.reshape(-1), torch.zeros(len(weight), dtype=torch.int32), 0, ACTIVATION_MIN, ACTIVATION_MAX
    ).div(scale)


def largest_pair(q: Tensor) -> float:
    """Of two neighbours along the input channels, the larger of the sums of what is positive and what is negative."""
    even = q[:, : q.shape[1] - q.shape[1] % 2]
    pairs = even.reshape(len(q), -1, 2, *q.shape[2:])
    if not pairs.numel():
        return 0.0
    return max(float(pairs.clamp(min=0).sum(2).max()), float(pairs.clamp(max=0).sum(2).neg().max()))


@settings(derandomize=True, deadline=None, database=None)
@given(ends, ends)
def test_both_ends_of_a_range_lie_at_most_half_a_step_off_the_grid(first: float, second: float) -> None:
    low, high = sorted((first, second))

    scale = activation_scale(low, high)

    assert scale > 0
    assert low / scale >= ACTIVATION_MIN - 0.5
    assert high / scale <= ACTIVATION_MAX + 0.5


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-2.0, 0.5), (0.0, 3.0), (-0.01, 7.0)])
def test_the_grid_is_no_wider_than_the_range_needs(low: float, high: float) -> None:
    scale = activation_scale(low, high)

    assert scale * ACTIVATION_MAX == pytest.approx(high, rel=HALF) or scale * ACTIVATION_MIN == pytest.approx(
        low, rel=HALF
    )


def test_an_empty_range_still_has_a_grid() -> None:
    assert activation_scale(0.0, 0.0) > 0


@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(st.sampled_from(SHAPES), st.integers(0, 2**31), st.sampled_from([0.3, 1.0, 4.0]))
def test_weights_fit_in_seven_bits_and_sign_and_pairs_in_sixteen(
    shape: tuple[int, ...], seed: int, tail: float
) -> None:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    weight = noise.sign() * noise.abs() ** tail

    q = integers(weight)

    assert float(q.abs().max()) <= WEIGHT_MAX + 1e-3
    assert round(largest_pair(q)) <= PAIR_MAX


@pytest.mark.parametrize("sign", [1, -1])
def test_a_pair_of_equal_weights_is_the_worst_case_and_fits(sign: int) -> None:
    q = integers(torch.full((2, 6, 3, 3), 0.731 * sign))

    assert round(largest_pair(q)) <= PAIR_MAX
    assert float(q.abs().max()) == pytest.approx(PAIR_MAX / 2, abs=1)


def test_a_pair_of_opposite_signs_takes_nothing_from_the_grid() -> None:
    weight = torch.ones(1, 4, 1, 1)
    weight[:, 1::2] = -1

    assert weight_scale(weight).item() == pytest.approx(1 / WEIGHT_MAX, rel=HALF)


def test_a_single_input_channel_has_no_neighbour() -> None:
    assert weight_scale(torch.ones(1, 1, 3, 3)).item() == pytest.approx(1 / WEIGHT_MAX, rel=HALF)


def test_the_last_of_an_odd_number_of_channels_has_no_neighbour() -> None:
    weight = torch.zeros(1, 3, 1, 1)
    weight[0, 2] = 1

    assert weight_scale(weight).item() == pytest.approx(1 / WEIGHT_MAX, rel=HALF)


def test_without_the_rule_pairs_would_overflow() -> None:
    """The control: plain scales per channel break what is promised."""
    weight = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    plain = weight.abs().reshape(8, -1).amax(dim=1).view(-1, 1, 1, 1) / WEIGHT_MAX

    assert largest_pair(torch.round(weight / plain)) > PAIR_MAX


def test_a_channel_of_zeros_has_a_scale() -> None:
    assert (weight_scale(torch.zeros(2, 4, 1, 1)) > 0).all()
