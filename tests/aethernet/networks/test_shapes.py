"""What is written about tensors without PyTorch is what PyTorch's networks hold."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from aethernet.networks import NETWORK_PRESETS, FoldState, NetworkConfig, Norm, build_network, preset_config
from aethernet.networks.shapes import state_entries
from tests.support.networks import SELECTED_CONFIGS, tiny_config

each_form = pytest.mark.parametrize("form", FoldState)
PRESETS = {
    f"gen{generation}-{name}": preset_config(generation, name, 2)
    for generation, names in NETWORK_PRESETS.items()
    for name in names
}
OPTIONS = {
    "another-reconstruction": tiny_config(2, reconstruction_channels=20),
    "another-reconstruction-1": tiny_config(1, reconstruction_channels=20),
    "unknown-small-kernel": tiny_config(2, small_kernel=None),
    "kernel-of-one": tiny_config(3, large_kernel=1, small_kernel=None),
    "scale-8": tiny_config(3, scale=8, embed_dim=24),
    "scale-8-generation-1": tiny_config(1, scale=8),
    "more-stages-than-channels": tiny_config(2, embed_dim=3, depths=(1,) * 5),
    "no-residual-scale": tiny_config(3, residual_scale=1.0),
    "another-range": tiny_config(2, image_range=255.0),
    "uneven-shares": tiny_config(2, embed_dim=17, depths=(1, 2, 3)),
}


def described(config: NetworkConfig, form: FoldState) -> dict[str, Any]:
    return {name: (entry.shape, entry.floating, entry.learned) for name, entry in state_entries(config, form).items()}


def built(config: NetworkConfig, form: FoldState) -> dict[str, Any]:
    with torch.device("meta"):
        network = build_network(config, form)
    learned = dict(network.named_parameters())
    return {
        name: (tuple(tensor.shape), tensor.is_floating_point(), name in learned)
        for name, tensor in network.state_dict().items()
    }


@each_form
@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS.keys())
def test_every_preset_holds_what_is_written(config: NetworkConfig, form: FoldState) -> None:
    # The depths are the presets' own in kind, not in number: blocks of one stage are all alike.
    config = dataclasses.replace(config, depths=tuple(min(depth, 2) for depth in config.depths))

    assert described(config, form) == built(config, form)


@each_form
@pytest.mark.parametrize("config", (SELECTED_CONFIGS | OPTIONS).values(), ids=(SELECTED_CONFIGS | OPTIONS).keys())
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_every_kind_of_network_holds_what_is_written(config: NetworkConfig, form: FoldState) -> None:
    assert described(config, form) == built(config, form)


@pytest.mark.parametrize(
    "change",
    [
        {"norm": Norm.LAYER},
        {"embed_dim": 24},
        {"hidden_channels": 25},
        {"large_kernel": 9},
        {"small_kernel": 5},
        {"depths": (2, 1)},
        {"channel_attention": True},
        {"spatial_attention": True},
        {"scale": 3},
        {"in_channels": 1},
        {"reconstruction_channels": 20},
    ],
    ids=str,
)
def test_another_network_holds_something_else(change: dict[str, Any]) -> None:
    assert described(tiny_config(2, **change), FoldState.TRAINING) != built(tiny_config(2), FoldState.TRAINING)
