"""Every measure against numbers worked out by hand, and against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import skimage.metrics

from aethernet.comparison.metrics import crop_border, level_shares, luma, psnr, ssim
from tests.support.images import natural_image


def flat(value: float, *shape: int) -> np.ndarray:
    return np.full(shape or (1, 3, 16, 16), value, dtype=np.float32)


def noisy(image: np.ndarray, amount: float = 0.05) -> np.ndarray:
    return image + amount * np.random.default_rng(0).standard_normal(image.shape, dtype=np.float32)


def levels(*values: float) -> np.ndarray:
    """An image of one row with these 8-bit levels, fractions and all."""
    return np.array(values, dtype=np.float32).reshape(1, 1, 1, -1) / np.float32(255)


@pytest.mark.parametrize(("error", "decibels"), [(0.1, 20), (0.01, 40), (1, 0), (1 / 255, 20 * math.log10(255))])
def test_psnr_of_an_even_error(error: float, decibels: float) -> None:
    assert psnr(flat(error), flat(0)) == pytest.approx(decibels, abs=1e-4)


def test_psnr_is_that_of_the_mean_squared_error_not_of_the_mean_of_psnrs() -> None:
    image = np.concatenate([flat(0.1), flat(0)])

    assert psnr(image, np.zeros_like(image)) == pytest.approx(-10 * math.log10(0.01 / 2), abs=1e-4)


def test_psnr_has_peak_1_also_for_dark_images() -> None:
    assert psnr(flat(0.2), flat(0.1)) == pytest.approx(20, abs=1e-4)


def test_identical_images_have_no_psnr() -> None:
    assert psnr(flat(0.3), flat(0.3)) is None


def test_psnr_is_scikit_image_s() -> None:
    image = natural_image(20, 30).numpy()
    expected = skimage.metrics.peak_signal_noise_ratio(image, noisy(image), data_range=1.0)

    assert psnr(image, noisy(image)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.8), (0, 1), (0.5, 0.5)])
def test_ssim_of_flat_images_is_its_luminance_term(a: float, b: float) -> None:
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)

    assert ssim(flat(a), flat(b)) == pytest.approx(expected, abs=1e-6)


def test_ssim_is_the_mean_over_the_batch() -> None:
    images, others = np.concatenate([flat(0.2), flat(0.5)]), np.concatenate([flat(0.8), flat(0.5)])
    single = ssim(flat(0.2), flat(0.8))

    assert single is not None
    assert ssim(images, others) == pytest.approx((single + 1) / 2)


def test_ssim_is_scikit_image_s_channel_by_channel() -> None:
    image = natural_image(24, 30).numpy()
    expected = [
        skimage.metrics.structural_similarity(
            one.astype(np.float64),
            other.astype(np.float64),
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for one, other in zip(image[0], noisy(image)[0], strict=True)
    ]

    assert ssim(image, noisy(image)) == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.parametrize(("height", "width", "known"), [(10, 40, False), (40, 10, False), (11, 11, True)])
def test_ssim_needs_images_as_large_as_its_window(height: int, width: int, known: bool) -> None:
    image = flat(0.5, 1, 1, height, width)

    assert (ssim(image, image) is not None) == known


def test_level_shares_count_what_a_viewer_sees() -> None:
    shares = level_shares(levels(10, 11, 12, 200), levels(10, 10, 10, 100))

    assert (shares.equal, shares.off_by_1, shares.off_by_2_or_more, shares.largest) == (0.25, 0.25, 0.5, 100)


def test_levels_are_rounded_before_they_are_compared() -> None:
    shares = level_shares(levels(9.6, 10.4, 10.6), levels(10, 10, 10))

    assert (shares.equal, shares.off_by_1, shares.largest) == (pytest.approx(2 / 3), pytest.approx(1 / 3), 1)


def test_levels_are_clipped_before_they_are_compared() -> None:
    shares = level_shares(levels(-500, 700), levels(0, 255))

    assert (shares.equal, shares.largest) == (1, 0)


def test_largest_level_difference_does_not_wrap_around() -> None:
    assert level_shares(levels(0), levels(255)).largest == 255
    assert level_shares(levels(255), levels(0)).largest == 255


@pytest.mark.parametrize(
    ("colour", "level"),
    [((0, 0, 0), 16), ((1, 1, 1), 235), ((1, 0, 0), 81.481), ((0, 1, 0), 144.553), ((0, 0, 1), 40.966)],
    ids=["black", "white", "red", "green", "blue"],
)
def test_luma_is_bt_601_in_studio_range(colour: tuple[float, float, float], level: float) -> None:
    image = np.array(colour, dtype=np.float32).reshape(1, 3, 1, 1)

    assert luma(image).shape == (1, 1, 1, 1)
    assert luma(image).item() * 255 == pytest.approx(level, abs=1e-3)


def test_grey_is_its_own_luma() -> None:
    grey = natural_image(channels=1).numpy()

    assert luma(grey) is grey


def test_border_is_cut_on_every_side() -> None:
    image = np.arange(5 * 6, dtype=np.float32).reshape(1, 1, 5, 6)

    assert crop_border(image, 2).tolist() == [[[[14, 15]]]]


def test_border_of_nothing_cuts_nothing() -> None:
    assert crop_border(flat(0.5, 1, 1, 4, 4), 0).shape == (1, 1, 4, 4)


def test_image_too_small_for_its_border_stays_whole() -> None:
    assert crop_border(flat(0.5, 1, 1, 4, 9), 2).shape == (1, 1, 4, 9)
