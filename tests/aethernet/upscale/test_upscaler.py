"""Arrays in, arrays out, whatever runs the network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import aethernet
from aethernet.errors import UpscaleError, UsageError
from aethernet.upscale import Upscaler
from aethernet.upscale.choice import candidates
from aethernet.upscale.reading import Still
from aethernet.upscale.statistics import UpscaleStatistics
from tests.support.upscaling import doubled, smoothing_bundle


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def expected(image: np.ndarray) -> np.ndarray:
    """What the network makes of each channel, rounded to the image's type."""
    top = np.iinfo(image.dtype).max
    channels = [doubled(image[..., index] / top) for index in range(image.shape[2])]
    return np.rint(np.clip(np.stack(channels, axis=2), 0, 1) * top)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(9, 7), (1, 1), (1, 40), (31, 2)], ids=str)
def test_integers_come_back_as_the_network_answers_rounded(
    upscaler: Upscaler, size: tuple[int, int], dtype: type
) -> None:
    image = noise(*size, 3, dtype=dtype)

    result = upscaler.upscale(image)

    assert result.dtype == dtype
    assert result.shape == (2 * size[0], 2 * size[1], 3)
    assert np.array_equal(result, expected(image))


def test_values_are_rounded_not_cut_off(upscaler: Upscaler) -> None:
    flat = [np.full((5, 5, 3), level, dtype=np.uint8) for level in (0, 1, 127, 200, 254, 255)]

    assert all((upscaler.upscale(image) == image[0, 0, 0]).all() for image in flat)


def test_floats_stay_floats_within_range(upscaler: Upscaler) -> None:
    image = noise(6, 6, 3).astype(np.float64) / 255

    result = upscaler.upscale(image)

    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.max() <= 1
    np.testing.assert_allclose(result[..., 1], doubled(image[..., 1]).clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 2), (6, 5, 4)], ids=str)
def test_grey_and_alpha_keep_their_shape(upscaler: Upscaler, shape: tuple[int, ...]) -> None:
    image = noise(*shape)

    result = upscaler.upscale(image)

    assert result.shape == (12, 10, *shape[2:])
    alpha = image.reshape(6, 5, -1)[..., -1:]
    assert np.abs(result.reshape(12, 10, -1)[..., -1:] - expected(alpha)).max() <= 1


def test_constant_alpha_stays_and_costs_nothing(upscaler: Upscaler) -> None:
    image = np.dstack([noise(6, 5, 3), np.full((6, 5), 77, np.uint8)])
    statistics = UpscaleStatistics()

    result = np.concatenate(list(upscaler.bands(Still.of_array(image), statistics)))

    assert (result[..., 3] == 77).all()
    assert statistics.tiles == 1


def test_colours_under_full_transparency_do_not_bleed(upscaler: Upscaler) -> None:
    image = np.zeros((8, 8, 4), dtype=np.uint8)
    image[:, 4:] = (200, 100, 50, 255)  # the left half is transparent black

    result = upscaler.upscale(image)

    assert (result[result[..., 3] > 0][:, :3] == (200, 100, 50)).all()


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((4, 4, 5), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((1, 3, 4, 4), np.float32), "shape"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((4, 4, 3), np.nan), "NaN"),
    ],
    ids=["channels", "empty", "batch", "type", "nan"],
)
def test_other_arrays_are_refused(upscaler: Upscaler, image: np.ndarray, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        upscaler.upscale(image)


def test_grey_network_takes_colours_channel_by_channel(tmp_path: Path) -> None:
    image = noise(7, 5, 3)

    with Upscaler(smoothing_bundle(tmp_path, channels=1), runtime="onnxruntime-cpu") as upscaler:
        result = upscaler.upscale(image)

    assert np.abs(result - expected(image)).max() <= 1


def test_threads_can_share_an_upscaler(upscaler: Upscaler) -> None:
    images = [noise(20 + index, 30 - index, 3) for index in range(8)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(upscaler.upscale, images))

    assert all(np.array_equal(result, upscaler.upscale(one)) for one, result in zip(images, results, strict=True))


def test_given_tiles_change_nothing(bundle: Path, upscaler: Upscaler) -> None:
    image = noise(70, 91, 4)
    statistics = UpscaleStatistics()

    with Upscaler(bundle, "fp32", "onnxruntime-cpu", tile=upscaler.cut.floor) as small:
        result = np.concatenate(list(small.bands(Still.of_array(image), statistics)))

    assert statistics.tiles > 4
    assert np.array_equal(result, upscaler.upscale(image))


def test_tiles_without_room_for_their_margins_are_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="at least"):
        Upscaler(bundle, tile=8)


def test_outputs_that_are_not_finite_are_redone_in_fp32(tmp_path: Path) -> None:
    release = smoothing_bundle(tmp_path, broken_above=0.5)
    dark, bright = np.full((4, 4, 3), 10, np.uint8), np.full((4, 4, 3), 200, np.uint8)
    tallies = UpscaleStatistics(), UpscaleStatistics()

    with Upscaler(release, "fp16", "onnxruntime-cpu") as upscaler:
        results = [
            np.concatenate(list(upscaler.bands(Still.of_array(image), statistics)))
            for image, statistics in zip((dark, bright), tallies, strict=True)
        ]

    assert [statistics.redone_in_fp32 for statistics in tallies] == [0, 1]
    assert [result.min() for result in results] == [10, 200]
    assert [result.max() for result in results] == [10, 200]


def test_a_closed_upscaler_says_so(bundle: Path) -> None:
    upscaler = Upscaler(bundle, "fp32", "onnxruntime-cpu")
    upscaler.close()

    with pytest.raises(UpscaleError, match="closed"):
        upscaler.upscale(noise(4, 4, 3))


# --- what runs it ----------------------------------------------------------------------------------------------------


def test_automatic_choice_says_what_it_measured(bundle: Path) -> None:
    with aethernet.Upscaler(bundle) as upscaler:
        told = upscaler.describe()

    assert {"onnxruntime-cpu fp32", "openvino-cpu fp32"} <= told["measured_ms"].keys()
    assert f"{told['runtime']} {told['precision']}" in told["measured_ms"]


def test_fp16_is_never_chosen_on_a_cpu(tmp_path: Path) -> None:
    found = candidates(aethernet.open_bundle(smoothing_bundle(tmp_path, broken_above=0.5)))

    assert found
    assert not [one for one in found if one.precision == "fp16" and one.runtime.endswith("-cpu")]


def test_another_runtime_gives_the_same_image(bundle: Path, upscaler: Upscaler) -> None:
    image = noise(9, 12, 3)

    with Upscaler(bundle, "fp32", "openvino") as other:
        assert np.abs(other.upscale(image).astype(int) - upscaler.upscale(image)).max() <= 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"runtime": "abacus"}, "abacus"),
        ({"precision": "fp7"}, "fp7"),
        ({"precision": "int8"}, "release with fp32"),
    ],
    ids=["runtime", "precision", "form"],
)
def test_what_cannot_be_had_is_named(bundle: Path, options: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Upscaler(bundle, **options)
