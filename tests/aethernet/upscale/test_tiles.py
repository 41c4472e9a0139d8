"""Cutting a picture into tiles leaves the result as it is."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aethernet.errors import UpscaleError
from aethernet.networks import NetworkConfig, build_network
from aethernet.runtimes.pytorch import TorchRuntime
from aethernet.upscale.tiles import Cut, TileSize, rows, size_tiles, spans
from tests.support.networks import randomised, tiny_config
from tests.support.pictures import natural_picture

LOCAL = {
    "gen1": tiny_config(1, depths=(1,), large_kernel=5),
    "gen1-x3": tiny_config(1, depths=(1,), large_kernel=3, scale=3),
    "gen2": tiny_config(2, depths=(1, 1), large_kernel=5),
    "gen2-spatial-x4": tiny_config(2, depths=(1,), large_kernel=3, scale=4, spatial_attention=True),
    "gen3": tiny_config(3, depths=(1, 1), large_kernel=5),
    "gen3-layer-x1": tiny_config(3, depths=(1,), large_kernel=5, scale=1),
}
SIZES = [(61, 83), (33, 131)]


@functools.cache
def network_of(config: NetworkConfig) -> nn.Module:
    return randomised(build_network(config))


def in_tiles(
    config: NetworkConfig, picture: np.ndarray, cut: Cut, tile: TileSize, fail: int | None = None
) -> tuple[np.ndarray, int, list[TileSize]]:
    """The picture tile by tile, how many times the network ran, and tile sizes taken after the failing run."""
    halved, runs = [], 0
    with TorchRuntime(network_of(config), threads=1) as runtime:

        def infer(part: np.ndarray) -> np.ndarray:
            nonlocal runs
            runs += 1
            if runs == fail:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 1")
            return runtime.infer(np.ascontiguousarray(part))

        bands = rows(
            picture.shape[2:],
            lambda down, right: picture[..., down, right],
            infer,
            lambda values: values,
            scale=config.scale,
            cut=cut,
            size=tile,
            on_halved=halved.append,
        )
        return np.concatenate(list(bands), axis=1), runs, halved


def test_windows_are_no_smaller_than_the_network_takes() -> None:
    config = LOCAL["gen1"]
    radius = config.receptive_radius
    picture, side = natural_picture(70, 91).numpy(), 2 * radius + 16
    seen: set[tuple[int, int]] = set()
    with TorchRuntime(network_of(config), threads=1) as runtime:

        def infer(part: np.ndarray) -> np.ndarray:
            seen.add(part.shape[2:])
            return runtime.infer(np.ascontiguousarray(part))

        size = TileSize(height=side, width=side, smallest=(side, side))
        cut = Cut(margin=radius)
        bands = rows(
            (70, 91), lambda down, right: picture[..., down, right], infer, np.asarray, scale=2, cut=cut, size=size
        )
        found = np.concatenate(list(bands), axis=1)

    assert seen == {(side, side)}
    assert np.abs(found - whole(config, picture)).max() <= 1e-4


def whole(config: NetworkConfig, picture: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        result: np.ndarray = network_of(config)(torch.from_numpy(picture)).numpy()[0]
        return result


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("config", LOCAL.values(), ids=LOCAL.keys())
def test_tiles_compute_what_the_whole_picture_computes(config: NetworkConfig, size: tuple[int, int]) -> None:
    picture = natural_picture(*size).numpy()
    side = 2 * config.receptive_radius + 16

    found, runs, _ = in_tiles(config, picture, Cut(margin=config.receptive_radius), TileSize(height=side, width=side))

    assert runs > 1
    assert np.abs(found - whole(config, picture)).max() <= 1e-4


@pytest.mark.parametrize("name", ["gen1", "gen2", "gen3"])
def test_a_margin_below_the_receptive_radius_shows(name: str) -> None:
    picture = natural_picture(61, 83).numpy()

    found, _, _ = in_tiles(LOCAL[name], picture, Cut(margin=2), TileSize(height=24, width=24))

    assert np.abs(found - whole(LOCAL[name], picture)).max() > 1e-4


def test_work_goes_on_with_smaller_tiles_when_memory_runs_out() -> None:
    config = LOCAL["gen2"]
    picture, cut = natural_picture(97, 75).numpy(), Cut(margin=config.receptive_radius)

    found, _, halved = in_tiles(config, picture, cut, TileSize(height=72, width=75), fail=2)

    assert len(halved) == 1
    assert np.abs(found - whole(config, picture)).max() <= 1e-4


def test_memory_that_never_suffices_is_an_error() -> None:
    config = LOCAL["gen2"]
    cut = Cut(margin=config.receptive_radius)

    with pytest.raises(UpscaleError, match="not enough memory"):
        TileSize(height=cut.floor, width=cut.floor).halved(cut.floor)


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def infer(part: np.ndarray) -> np.ndarray:
        raise ValueError("something else")

    bands = rows(
        (8, 8),
        lambda *_: np.zeros((1, 3, 8, 8), np.float32),
        infer,
        lambda values: values,
        scale=2,
        cut=Cut(margin=1),
        size=TileSize(height=8, width=8),
    )

    with pytest.raises(ValueError, match="something else"):
        next(bands)


def test_tiles_of_a_network_that_pools_fade_into_each_other() -> None:
    config = dataclasses.replace(LOCAL["gen2"], channel_attention=True)
    picture = natural_picture(120, 150).numpy()
    margin, truth = config.receptive_radius + 16, whole(config, picture)
    tile = TileSize(height=120, width=100)
    seam = spans(150, 100, margin)[0].last * config.scale

    hard, soft = (
        in_tiles(config, picture, Cut(margin=margin, feather=feather), tile)[0] - truth for feather in (0, 16)
    )

    def step(error: np.ndarray) -> float:
        return float(np.abs(error[..., seam] - error[..., seam - 1]).mean())

    assert step(hard) > 0
    assert step(soft) < step(hard) / 2


def test_feathered_tiles_of_a_local_network_are_still_equal() -> None:
    config = LOCAL["gen3"]
    picture = natural_picture(130, 151).numpy()
    cut = Cut(margin=config.receptive_radius + 8, feather=8)

    found, runs, _ = in_tiles(config, picture, cut, TileSize(height=cut.floor + 9, width=cut.floor + 5))

    assert runs > 4
    assert np.abs(found - whole(config, picture)).max() <= 1e-4


@settings(max_examples=40)
@given(st.integers(1, 250), st.integers(1, 250), st.integers(1, 12))
def test_fading_adds_up_to_one_even_for_the_smallest_tiles(height: int, width: int, feather: int) -> None:
    cut = Cut(margin=3 + feather, feather=feather)
    picture = np.random.default_rng(0).random((1, 1, height, width), dtype=np.float32)

    bands = rows(
        (height, width),
        lambda down, right: picture[..., down, right],
        lambda part: part,
        lambda values: values,
        scale=1,
        cut=cut,
        size=TileSize(height=cut.floor, width=cut.floor),
    )

    np.testing.assert_allclose(np.concatenate(list(bands), axis=1), picture[0], atol=1e-6)


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(20, 90), st.integers(0, 9))
def test_spans_keep_every_pixel_once_with_its_margin(length: int, size: int, margin: int) -> None:
    found = spans(length, size, margin)

    assert [pixel for span in found for pixel in range(span.first, span.last)] == list(range(length))
    assert all(span.stop - span.start <= size and span.start >= 0 and span.stop <= length for span in found)
    assert all(span.start == 0 or span.first - span.start >= margin for span in found)
    assert all(span.stop == length or span.stop - span.last >= margin for span in found)


def test_tiles_are_whole_where_they_fit_and_otherwise_compute_the_fewest_pixels() -> None:
    cut = Cut(margin=5)

    assert size_tiles(40, 50, 2000, cut) == TileSize(height=40, width=50)
    assert size_tiles(40, 5000, 4900, cut) == TileSize(height=40, width=121)
    assert size_tiles(5000, 40, 4900, cut) == TileSize(height=121, width=40)
    assert size_tiles(5000, 5000, 4900, cut) == TileSize(height=69, width=71)
    assert size_tiles(1080, 1920, 400_000, Cut(margin=50)) == TileSize(height=590, width=555)
    assert size_tiles(5000, 5000, 10**6, Cut(margin=50), 1.7).height < 450


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 30_000), st.integers(0, 20), st.sampled_from([0, 8]))
def test_tiles_fit_and_make_headway(height: int, width: int, pixels: int, margin: int, feather: int) -> None:
    cut = Cut(margin=margin + feather, feather=feather)

    size = size_tiles(height, width, pixels, cut, 1.4)

    assert size.height * size.width <= max(pixels, cut.floor**2)
    assert size.height == height or size.height > 2 * cut.margin
    assert size.width == width or size.width > 2 * cut.margin
