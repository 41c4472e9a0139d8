"""The config: what it accepts, how it travels, what the published presets are."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from aethernet.errors import UsageError
from aethernet.networks import NETWORK_PRESETS, NetworkConfig, Norm, preset_config
from tests.support.networks import SELECTED_CONFIGS, tiny_config

ALL_PRESETS = [(generation, name) for generation, presets in NETWORK_PRESETS.items() for name in presets]
every_preset = pytest.mark.parametrize(("generation", "name"), ALL_PRESETS)

# generation, name, C, depths, hidden, K, k, channel attention, spatial attention, residual scale, epsilon
PUBLISHED = [
    (1, "small", 96, (4,) * 4, 192, 11, 3, False, False, 1.0, 1e-6),
    (1, "medium", 128, (6,) * 6, 256, 11, 3, False, False, 1.0, 1e-6),
    (1, "large", 180, (8,) * 8, 360, 11, 3, False, False, 1.0, 1e-6),
    (2, "tiny", 64, (3,) * 3, 128, 11, 3, False, False, 1.0, 1e-5),
    (2, "small", 96, (4,) * 4, 192, 11, 3, False, False, 1.0, 1e-5),
    (2, "medium", 128, (6,) * 4, 256, 11, 3, True, True, 1.0, 1e-5),
    (2, "large", 180, (8,) * 5, 360, 11, 3, True, True, 1.0, 1e-5),
    (3, "mobile", 64, (2,) * 4, 96, 7, 3, False, False, 0.2, 1e-4),
    (3, "tiny", 64, (3,) * 3, 96, 13, 5, True, False, 0.2, 1e-4),
    (3, "small", 96, (4,) * 4, 144, 13, 5, True, False, 0.1, 1e-4),
    (3, "medium", 128, (6,) * 4, 192, 13, 5, True, False, 0.1, 1e-4),
    (3, "large", 180, (8,) * 5, 270, 13, 5, True, True, 0.1, 1e-4),
    (3, "pro", 192, (8,) * 5, 336, 15, 5, True, True, 0.1, 1e-4),
    (3, "extreme", 256, (12,) * 5, 512, 21, 5, True, True, 0.1, 1e-4),
]


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda row: f"gen{row[0]}-{row[1]}")
def test_presets_are_the_published_ones(published: tuple[Any, ...]) -> None:
    generation, name, width, depths, hidden, large, small, channel, spatial, residual, epsilon = published

    assert preset_config(generation, name, 2) == NetworkConfig(
        generation=generation,
        scale=2,
        embed_dim=width,
        depths=depths,
        hidden_channels=hidden,
        large_kernel=large,
        small_kernel=small,
        norm=Norm.LAYER if generation == 1 else Norm.DEPLOYMENT,
        norm_eps=epsilon,
        channel_attention=channel,
        spatial_attention=spatial,
        residual_scale=residual,
    )


def test_the_list_above_is_complete() -> None:
    assert [row[:2] for row in PUBLISHED] == ALL_PRESETS


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@every_preset
def test_a_preset_recognises_itself(generation: int, name: str, scale: int) -> None:
    assert preset_config(generation, name, scale).preset_name() == name
    assert preset_config(generation, name, scale, in_channels=1).preset_name() == name


@every_preset
def test_a_preset_is_recognised_without_what_fusing_hides(generation: int, name: str) -> None:
    config = dataclasses.replace(preset_config(generation, name, 2), small_kernel=None, residual_scale=1.0)

    assert config.preset_name() == name


@pytest.mark.parametrize("change", [{"depths": (4, 4, 4)}, {"embed_dim": 98}, {"large_kernel": 9}], ids=str)
def test_another_shape_is_a_custom_network(change: dict[str, Any]) -> None:
    assert dataclasses.replace(preset_config(2, "small", 2), **change).preset_name() == "custom"


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no preset 'mobile' in generation 2") as caught:
        preset_config(2, "mobile", 2)

    assert "generation 3: mobile, tiny" in caught.value.hint


def test_a_preset_can_be_built_with_layer_norms() -> None:
    config = preset_config(3, "tiny", 2, norm=Norm.LAYER)

    assert (config.norm, config.norm_eps) == (Norm.LAYER, 1e-5)


@pytest.mark.parametrize("config", SELECTED_CONFIGS.values(), ids=SELECTED_CONFIGS.keys())
def test_configs_survive_json(config: NetworkConfig) -> None:
    text = json.dumps(config.to_json())

    assert NetworkConfig.from_json(json.loads(text)) == config


@every_preset
def test_preset_configs_survive_json(generation: int, name: str) -> None:
    config = preset_config(generation, name, 4)

    assert NetworkConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"norm": "group"},
        {"depths": 3},
        {"depths": None},
        {"embed_dim": "16"},
        {"scale": 2.5},
        {"residual_scale": "much"},
        {"residual_scale": math.nan},
        {"image_range": math.inf},
    ],
    ids=str,
)
def test_json_that_is_no_config_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        NetworkConfig.from_json(tiny_config().to_json() | change)


@pytest.mark.parametrize("field", ["generation", "scale", "depths", "norm"])
def test_json_without_a_field_is_refused(field: str) -> None:
    data = tiny_config().to_json()
    del data[field]

    with pytest.raises(UsageError):
        NetworkConfig.from_json(data)


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 4},
        {"scale": 0},
        {"scale": 5},
        {"scale": 6},
        {"embed_dim": 0},
        {"hidden_channels": 0},
        {"in_channels": 0},
        {"reconstruction_channels": 0},
        {"depths": ()},
        {"depths": (2, 0)},
        {"large_kernel": 8},
        {"small_kernel": 4},
        {"small_kernel": 9},
        {"residual_scale": 0.0},
        {"residual_scale": -0.1},
        {"residual_scale": math.inf},
        {"image_range": 0.0},
        {"norm_eps": 0.0},
        {"generation": 1},
        {"channel_attention": True, "embed_dim": 7},
    ],
    ids=str,
)
def test_impossible_networks_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        dataclasses.replace(tiny_config(2), **change)


# What enters the last convolution: max(32, C // max(1, s // 2)), for generation 3 made even; 64 in generation 1.
@pytest.mark.parametrize(
    ("generation", "width", "scale", "expected"),
    [
        (1, 96, 4, 64),
        (2, 64, 1, 64),
        (2, 64, 2, 64),
        (2, 64, 3, 64),
        (2, 64, 4, 32),
        (2, 90, 4, 45),
        (3, 90, 4, 44),
        (2, 180, 8, 45),
        (3, 180, 8, 44),
        (2, 16, 2, 32),
    ],
)
def test_width_before_the_last_convolution(generation: int, width: int, scale: int, expected: int) -> None:
    assert tiny_config(generation, embed_dim=width, scale=scale).upsampled_channels == expected


@pytest.mark.parametrize(
    ("width", "stages", "expected"),
    [(16, 2, (8, 8)), (64, 3, (22, 21, 21)), (180, 5, (36,) * 5), (10, 4, (3, 3, 2, 2))],
)
def test_the_stages_share_the_channels(width: int, stages: int, expected: tuple[int, ...]) -> None:
    assert tiny_config(2, embed_dim=width, depths=(1,) * stages).fusion_shares == expected


def test_only_channel_attention_pools_globally() -> None:
    assert tiny_config(3, channel_attention=True).pools_globally
    assert not tiny_config(3, spatial_attention=True).pools_globally
