"""What images show decides: histograms, ranges from them, and crops that are the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aethernet.errors import CalibrationError
from aethernet.quantization.calibration import (
    Method,
    TensorHistogram,
    choose_range,
    crops_of,
    rounding_noise,
    watch,
)
from aethernet.quantization.scheme import activation_scale
from aethernet.quantization.structure import quantizers_of, restructure
from tests.support.images import natural_image
from tests.support.quantization import calibration_images, fused_network


def noise(*shape: int, seed: int = 0, tail: float = 1.0) -> np.ndarray:
    """float32; with a larger ``tail`` few values are far larger than all others."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return (np.sign(values) * np.abs(values) ** tail).astype(np.float32)


def seen(*images: np.ndarray) -> TensorHistogram:
    """The histogram of the images themselves."""
    module = nn.Identity()
    return watch(module, {"image": module}, images)["image"]


def test_a_histogram_counts_every_value_of_every_image() -> None:
    first, second = noise(1, 3, 9, 7), noise(2, 3, 8, 8, seed=1)

    histogram = seen(first, second)

    together = np.concatenate([first.ravel(), second.ravel()])
    assert (histogram.low, histogram.high) == (together.min(), together.max())
    assert histogram.counts.sum() == together.size
    wanted, _ = np.histogram(together, len(histogram.counts), (histogram.low, histogram.high))
    assert np.abs(histogram.counts - wanted).sum() <= 4  # values on an edge


def test_every_point_is_watched_at_its_input() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Identity())

    histograms = watch(network, {"before": network[0], "after": network[1]}, [noise(1, 1, 16, 16)])

    assert histograms["before"].low < 0
    assert histograms["after"].low == 0
    assert histograms["before"].high == histograms["after"].high


def test_watching_leaves_no_hooks_behind() -> None:
    module = nn.Identity()

    watch(module, {"image": module}, [noise(1, 1, 4, 4)])

    assert not module._forward_pre_hooks


def test_a_tensor_of_one_value_has_a_range() -> None:
    for value in (0.0, 3.0, -3.0):
        choice = choose_range(seen(np.full((1, 1, 4, 4), value, np.float32)))

        assert choice.scale > 0
        assert np.isfinite(choice.noise)


def test_the_same_images_give_the_same_ranges() -> None:
    network = restructure(fused_network(2))
    points = quantizers_of(network)

    first, second = (watch(network, points, calibration_images(2)) for _ in range(2))

    assert [choose_range(first[name]) for name in points] == [choose_range(second[name]) for name in points]


@pytest.mark.parametrize("tail", [0.5, 1.0, 2.0, 4.0])
def test_best_is_the_method_with_the_smallest_error(tail: float) -> None:
    histogram = seen(noise(1, 3, 64, 64, tail=tail))

    best = choose_range(histogram)

    each = [choose_range(histogram, method) for method in Method if method is not Method.BEST]
    assert best.noise == min(choice.noise for choice in each)
    assert best in each


def test_each_method_is_used_when_asked_for() -> None:
    histogram = seen(noise(1, 3, 64, 64, tail=2))

    for method in (Method.MIN_MAX, Method.PERCENTILE, Method.ERROR):
        assert choose_range(histogram, method).method is method
    extremes = choose_range(histogram, Method.MIN_MAX).scale
    assert extremes == activation_scale(histogram.low, histogram.high)
    assert choose_range(histogram, Method.PERCENTILE).scale < extremes


def test_a_few_outliers_are_given_up_for_the_rest() -> None:
    values = noise(1, 3, 128, 128)
    values[0, 0, 0, :2] = [12, -12]

    choice = choose_range(seen(values))

    assert choice.scale < 0.95 * 12 / 127
    assert choice.noise < choose_range(seen(values), Method.MIN_MAX).noise


@settings(derandomize=True, max_examples=25, deadline=None, database=None)
@given(st.integers(0, 2**31), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.005, 0.02, 0.1]))
def test_the_error_from_the_histogram_is_that_of_the_values(seed: int, tail: float, scale: float) -> None:
    values = noise(1, 1, 80, 80, seed=seed, tail=tail)

    estimate = rounding_noise(seen(values), scale)

    rounded = np.clip(np.rint(values / scale), -128, 127) * scale
    assert estimate == pytest.approx(float(((values - rounded) ** 2).sum() / (values**2).sum()), rel=0.1, abs=1e-7)


def test_no_images_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="expected images to calibrate on, found none"):
        seen()


def with_one(value: float) -> np.ndarray:
    broken = natural_image().numpy().copy()
    broken[0, 1, 2, 3] = value
    return broken


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_an_error_that_names_the_tensor(value: float) -> None:
    with pytest.raises(CalibrationError, match="found NaN or infinity in image"):
        seen(with_one(value))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "value",
    [
        np.nan,
        np.inf,
        -np.inf,
    ],
)
def test_one_broken_image_among_good_ones_is_an_error(value: float, order: int) -> None:
    images = [natural_image().numpy(), with_one(value)]

    with pytest.raises(CalibrationError, match="found NaN or infinity in image"):
        seen(*images[::order])


def test_a_broken_weight_is_an_error() -> None:
    fused = fused_network(2)
    with torch.no_grad():
        fused.conv_after_body.weight[0, 0, 0, 0] = torch.nan
    network = restructure(fused)

    with pytest.raises(CalibrationError, match=r"conv_after_body\.output"):
        watch(network, quantizers_of(network), calibration_images(2))


def test_the_same_seed_gives_the_same_crops() -> None:
    images = [natural_image(40, 50, seed=seed).numpy() for seed in range(3)]

    first, second, third = (crops_of(images, 16, 4, seed) for seed in (0, 0, 1))

    assert len(first) == 12
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, third, strict=True))


def test_crops_are_parts_of_their_images() -> None:
    image = np.arange(40 * 50, dtype=np.float32).reshape(1, 1, 40, 50)

    for crop in crops_of([image], 16, 8):
        top, left = divmod(int(crop[0, 0, 0, 0]), 50)
        assert crop.shape == (1, 1, 16, 16)
        assert np.array_equal(crop, image[:, :, top : top + 16, left : left + 16])


@pytest.mark.parametrize(("height", "width", "number"), [(16, 16, 1), (12, 9, 1), (12, 40, 4), (17, 16, 4)])
def test_small_images_are_taken_once_and_whole(height: int, width: int, number: int) -> None:
    crops = crops_of([natural_image(height, width).numpy()], 16, 4)

    assert [crop.shape for crop in crops] == [(1, 3, min(height, 16), min(width, 16))] * number


def test_values_count_by_the_square_of_the_sigmoid_they_are_multiplied_by() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.point = nn.Identity(), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate = self.gate(x)
            y: torch.Tensor = self.point(x) * torch.sigmoid(gate)
            return y

    network, image = Gated(), np.array([-8.0, -1.0, 1.0, 8.0], np.float32).reshape(1, 1, 2, 2)

    plain = watch(network, {"point": network.point}, [image])["point"]
    weighted = watch(network, {"point": network.point}, [image], {"point": network.gate})["point"]

    assert plain.counts[plain.counts > 0].tolist() == [1, 1, 1, 1]
    wanted = 1 / (1 + np.exp(-image.ravel().astype(np.float64))) ** 2
    np.testing.assert_allclose(weighted.counts[weighted.counts > 0], wanted, rtol=1e-5)
    assert choose_range(weighted, Method.ERROR).scale <= choose_range(plain, Method.ERROR).scale
