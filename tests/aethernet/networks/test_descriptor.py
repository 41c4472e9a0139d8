"""What a network needs to be run: sizes are met by padding that leaves no trace, descriptions survive JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aethernet.errors import UsageError
from aethernet.networks import preset_config
from aethernet.networks.config import describe
from aethernet.networks.descriptor import Descriptor, Tiling
from aethernet.networks.sizes import SizeRequirements, fitted, padded


def enlarge(picture: np.ndarray) -> np.ndarray:
    return picture.repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.parametrize(
    ("size", "given", "expected"),
    [
        (SizeRequirements(), (1, 7), (1, 7)),
        (SizeRequirements(minimum=16), (3, 20), (16, 20)),
        (SizeRequirements(multiple=8), (17, 8), (24, 8)),
        (SizeRequirements(minimum=20, multiple=8), (3, 3), (24, 24)),
        (SizeRequirements(multiple=4, square=True), (3, 9), (12, 12)),
        (SizeRequirements(fixed=(32, 48)), (5, 48), (32, 48)),
    ],
)
def test_the_least_size_a_network_takes_holds_the_picture(
    size: SizeRequirements, given: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert size.fit(*given) == expected


def test_a_picture_larger_than_the_only_size_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 48x32 pixels, found 20x40"):
        SizeRequirements(fixed=(32, 48)).fit(40, 20)


def test_padding_mirrors_first_and_repeats_the_border_then() -> None:
    row = np.arange(3, dtype=np.float32).reshape(1, 1, 1, 3)

    made = padded(row, SizeRequirements(multiple=8))

    assert made[0, 0, 0].tolist() == [0, 1, 2, 1, 0, 0, 0, 0]
    assert made.shape == (1, 1, 8, 8)


def test_what_a_network_makes_of_the_padding_is_cut_off() -> None:
    picture = np.random.default_rng(0).random((2, 3, 5, 9), dtype=np.float32)

    assert np.array_equal(fitted(picture, SizeRequirements(minimum=16), 2, enlarge), enlarge(picture))
    # A network of another scale than stated shows: nothing is silently resized.
    assert fitted(picture, SizeRequirements(minimum=16), 1, enlarge).shape != enlarge(picture).shape


def test_a_description_survives_json() -> None:
    made = Descriptor(
        architecture="Compact",
        library="spandrel",
        variant="64nf",
        scale=4,
        in_channels=3,
        out_channels=1,
        size=SizeRequirements(minimum=8, multiple=4, square=True, fixed=(64, 64)),
        tiling=Tiling.DISCOURAGED,
        receptive_radius=18,
    )

    assert describe(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    "change", [{"scale": 0}, {"tiling": "maybe"}, {"size": {"minimum": -1}}, {"unknown": 1}, {"size": {"fixed": 3}}]
)
def test_a_description_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    good = Descriptor(architecture="A", library="spandrel", scale=2, in_channels=3, out_channels=3).to_json()

    with pytest.raises(UsageError):
        describe({**good, **change})


def test_an_aethernet_is_described_like_every_other_network() -> None:
    config = preset_config(2, "tiny", 2)

    found = describe(config.to_json())

    assert (found.architecture, found.scale, found.size) == ("AetherNet", 2, SizeRequirements())
    assert found.receptive_radius == config.receptive_radius
    assert found.tiling is Tiling.SUPPORTED
    assert describe(preset_config(3, "small", 2).to_json()).pools_globally
