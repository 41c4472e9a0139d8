"""The AetherNet networks: one definition for training, loading, fusing and exporting.

A trainer builds the training form and may register it under a preset's name::

    from aethernet.networks import build_network, preset_config
    network = build_network(preset_config(2, "tiny", scale=2), drop_path=0.1)

Configs need nothing but Python; the networks load PyTorch when first used, so that a release can be opened and run
without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aethernet.networks.config import NETWORK_PRESETS, FoldState, NetworkConfig, Norm, Preset, preset_config

if TYPE_CHECKING:
    from aethernet.networks.building import AetherNet, build_network
    from aethernet.networks.generation1 import AetherNet1
    from aethernet.networks.generation2 import AetherNet2, AetherNet3

__all__ = [
    "NETWORK_PRESETS",
    "AetherNet",
    "AetherNet1",
    "AetherNet2",
    "AetherNet3",
    "FoldState",
    "NetworkConfig",
    "Norm",
    "Preset",
    "build_network",
    "preset_config",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'aethernet.networks' has no attribute '{name}'")
    from aethernet.networks import building  # written out, because caches of stages follow imports

    return getattr(building, name)
