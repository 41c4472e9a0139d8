"""``receptive_radius`` is what tiling relies on: exactly so far, and no farther, may a pixel reach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aethernet.networks import NetworkConfig, build_network, preset_config
from tests.support.networks import randomised, tiny_config

LOCAL_CONFIGS = {
    f"gen{generation}-{kind}-x{scale}": tiny_config(
        generation, scale=scale, depths=(1, 1), large_kernel=kernel, spatial_attention=spatial, embed_dim=8
    )
    for generation in (1, 2, 3)
    for scale in (1, 2, 3, 4)
    for kind, kernel, spatial in (("k5", 5, False), ("k3", 3, False), ("k3-spatial", 3, True))
    if not (generation == 1 and spatial)
}
local = pytest.mark.parametrize("config", LOCAL_CONFIGS.values(), ids=LOCAL_CONFIGS.keys())


def centre_after(config: NetworkConfig, *, changed_from: int, changed_to: int) -> tuple[Tensor, Tensor]:
    """What becomes of the central pixel, before and after changing all pixels at certain distances from it."""
    network = randomised(build_network(config)).double()
    side = 2 * config.receptive_radius + 5
    middle = side // 2
    offset = (torch.arange(side) - middle).abs()
    distance = torch.maximum(offset.view(-1, 1), offset.view(1, -1))
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, side, side, generator=generator, dtype=torch.float64)
    other = torch.where((distance >= changed_from) & (distance <= changed_to), 1 - picture, picture)
    pixels = slice(middle * config.scale, (middle + 1) * config.scale)
    with torch.no_grad():
        return network(picture)[..., pixels, pixels], network(other)[..., pixels, pixels]


@local
def test_nothing_beyond_the_radius_is_seen(config: NetworkConfig) -> None:
    before, after = centre_after(config, changed_from=config.receptive_radius + 1, changed_to=10**9)

    torch.testing.assert_close(after, before, rtol=0, atol=0)


@local
def test_what_lies_at_the_radius_is_seen(config: NetworkConfig) -> None:
    before, after = centre_after(config, changed_from=config.receptive_radius, changed_to=config.receptive_radius)

    assert not torch.equal(after, before)


@pytest.mark.parametrize(
    ("generation", "name", "expected"),
    [(1, "small", 85), (1, "medium", 185), (1, "large", 325), (2, "tiny", 50), (3, "mobile", 29)],
)
def test_radius_of_published_networks(generation: int, name: str, expected: int) -> None:
    assert preset_config(generation, name, 2).receptive_radius == expected
