"""The sample network stays a picture's range away from nonsense, also on pictures unlike any photograph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import aethernet
from aethernet.images.files import load_picture, sample_pictures
from aethernet.networks import AetherNet

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

CHECKPOINT = Path(__file__).parents[1] / "releases" / "aether_tiny_2x" / "aether_tiny_2x.safetensors"
SIDE = 64


def _extremes() -> dict[str, ImageArray]:
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    patterns = {
        "noise": random.random((3, SIDE, SIDE)),
        "black and white noise": random.integers(2, size=(1, SIDE, SIDE)).repeat(3, axis=0),
        "coloured noise": random.integers(2, size=(3, SIDE, SIDE)),
        "white": np.ones((3, SIDE, SIDE)),
    }
    for size in (1, 2, 4):
        patterns[f"checkerboard of {size}"] = ((rows // size + columns // size) % 2)[None].repeat(3, axis=0)
        patterns[f"stripes of {size}"] = (columns // size % 2)[None].repeat(3, axis=0)
        red_and_blue = columns // size % 2
        patterns[f"red and blue stripes of {size}"] = np.stack([red_and_blue, 0 * rows, 1 - red_and_blue])
    return {name: pattern.astype(np.float32)[None] for name, pattern in patterns.items()}


@pytest.fixture(scope="module")
def network() -> AetherNet:
    return aethernet.load(CHECKPOINT).model.eval()


def _assert_bounded(network: AetherNet, picture: ImageArray) -> None:
    with torch.inference_mode():
        output = network(torch.from_numpy(picture))
    assert float(output.min()) >= -1
    assert float(output.max()) <= 2


@pytest.mark.parametrize("path", sample_pictures(), ids=lambda path: path.stem)
def test_sample_network_is_bounded_on_the_librarys_pictures(path: Path, network: AetherNet) -> None:
    _assert_bounded(network, load_picture(path))


@pytest.mark.parametrize("name", _extremes())
def test_sample_network_is_bounded_on_extremes(name: str, network: AetherNet) -> None:
    _assert_bounded(network, _extremes()[name])
