"""The numbers are the field's: held against scikit-image and against the papers' formulas written out in SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import skimage.color
import skimage.metrics
import torch
from PIL import Image

from aethernet.comparison import quality_of
from aethernet.comparison.metrics import luma
from aethernet.images.downscaling import downscale
from tests.support.pictures import natural_picture

SIZES = [(48, 64), (37, 41), (96, 31), (63, 64), (21, 101)]
CROP = 3


def ssim_by_its_paper(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, as their MATLAB code filters: [H, W] in 0 to 255, only where the window fits."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    line /= line.sum()

    def mean(values: np.ndarray) -> np.ndarray:
        filtered = scipy.ndimage.correlate1d(scipy.ndimage.correlate1d(values, line, axis=0), line, axis=1)
        return filtered[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b, both = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2, mean(a * b) - mu_a * mu_b
    score = ((2 * mu_a * mu_b + c1) * (2 * both + c2)) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    return float(score.mean())


def pair(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An original and an output that is not yet rounded and leaves [0, 1] here and there."""
    truth = np.rint(natural_picture(*size, seed=size[0]).numpy() * 255).astype(np.float32) / np.float32(255)
    noise = np.random.default_rng(size[1]).standard_normal(truth.shape, dtype=np.float32)
    return truth + np.float32(0.04) * noise, truth


def levels(picture: np.ndarray) -> np.ndarray:
    """[1, 3, H, W] -> [H, W, 3] uint8."""
    return np.clip(np.round(picture[0].transpose(1, 2, 0) * 255), 0, 255).astype(np.uint8)


def expected(output: np.ndarray, truth: np.ndarray, crop: int) -> dict[str, float]:
    shown, wanted = levels(output), levels(truth)
    y, y_wanted = (skimage.color.rgb2ycbcr(one)[crop:-crop, crop:-crop, 0] for one in (shown, wanted))
    channels = [ssim_by_its_paper(shown[..., one].astype(float), wanted[..., one].astype(float)) for one in range(3)]
    return {
        "psnr_rgb": skimage.metrics.peak_signal_noise_ratio(wanted, shown),
        "ssim_rgb": float(np.mean(channels)),
        "psnr_y": skimage.metrics.peak_signal_noise_ratio(y_wanted, y, data_range=255),
        "ssim_y": ssim_by_its_paper(y, y_wanted),
    }


def off(output: np.ndarray, truth: np.ndarray, wanted: dict[str, float]) -> list[str]:
    """Which measures differ by more than 1e-3 dB or 1e-4."""
    found = quality_of("form", None, "picture", output, truth, CROP)
    return [
        name
        for name, value in wanted.items()
        if abs(getattr(found, name) - value) > (1e-3 if name.startswith("psnr") else 1e-4)
    ]


@pytest.mark.parametrize("size", SIZES)
def test_all_four_measures_are_those_of_other_libraries(size: tuple[int, int]) -> None:
    output, truth = pair(size)

    assert off(output, truth, expected(output, truth, CROP)) == []


@pytest.mark.parametrize("size", SIZES)
def test_other_definitions_are_told_apart(size: tuple[int, int]) -> None:
    """Not rounded, cropped by one pixel more, full-range Y: each is found out on every picture."""
    output, truth = pair(size)
    unrounded = float(-10 * np.log10(np.mean((output.astype(float) - truth.astype(float)) ** 2)))
    grey, grey_wanted = (np.asarray(Image.fromarray(one).convert("L")) for one in (levels(output), levels(truth)))
    full_range = skimage.metrics.peak_signal_noise_ratio(grey_wanted, grey)

    assert off(output, truth, {"psnr_rgb": unrounded}) == ["psnr_rgb"]
    assert {"psnr_y", "ssim_y"} & set(off(output, truth, expected(output, truth, CROP + 1)))
    assert off(output, truth, {"psnr_y": full_range}) == ["psnr_y"]


def test_y_is_scikit_images() -> None:
    picture = natural_picture(9, 7).numpy()

    wanted = skimage.color.rgb2ycbcr(picture[0].transpose(1, 2, 0))[..., 0]

    assert np.abs(luma(picture)[0, 0] * 255 - wanted).max() < 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlab_bicubic_is_pytorchs_antialiased_one_away_from_edges(scale: int) -> None:
    pixels = levels(natural_picture(12 * scale, 15 * scale, seed=scale).numpy())
    floats = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]

    found = downscale(pixels, scale, "matlab-bicubic")
    wanted = torch.nn.functional.interpolate(floats, scale_factor=1 / scale, mode="bicubic", antialias=True)

    inside = np.abs(found.astype(float) - wanted[0].permute(1, 2, 0).numpy())[3:-3, 3:-3]
    assert found.shape == (12, 15, 3)
    assert inside.max() < 1.2  # rounded after each axis, as MATLAB does
    assert inside.mean() < 0.4
    shifted = np.abs(np.roll(found, 1, axis=1).astype(float) - wanted[0].permute(1, 2, 0).numpy())[3:-3, 3:-3]
    assert shifted.mean() > 2


def test_edges_continue_mirrored() -> None:
    """A picture and its mirror image side by side give what the picture alone gives, up to the very edge."""
    pixels = levels(natural_picture(20, 24).numpy())
    doubled = np.concatenate([pixels[:, ::-1], pixels, pixels[:, ::-1]], axis=1)

    assert np.array_equal(downscale(doubled, 2, "matlab-bicubic")[:, 12:24], downscale(pixels, 2, "matlab-bicubic"))
    repeated = np.concatenate([pixels[:, :1].repeat(24, 1), pixels, pixels[:, ::-1]], axis=1)
    assert not np.array_equal(
        downscale(repeated, 2, "matlab-bicubic")[:, 12:24], downscale(pixels, 2, "matlab-bicubic")
    )


def test_a_step_shrinks_as_worked_out_by_hand() -> None:
    """Keys' kernel at distances 0.25, 0.75, 1.25, 1.75, halved: 0.43359, 0.11328, -0.03516, -0.01172."""
    step = np.zeros((4, 16, 1), dtype=np.uint8)
    step[:, 8:] = 200

    assert downscale(step, 2, "matlab-bicubic")[0, :, 0].tolist() == [0, 0, 0, 13, 187, 202, 200, 200]
