"""Architectures: what a release needs of a network, whoever wrote the network.

A plugin (:class:`~aethernet.architectures.plugins.Architecture`) recognises checkpoints, builds networks that can be
fused and exported, and describes them. AetherNet is one, everything that spandrel knows is another.

Descriptions need nothing but NumPy; plugins load PyTorch when a checkpoint is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aethernet.architectures.descriptor import Descriptor, SizeRequirements, Tiling, fitted, padded

__all__ = ["Descriptor", "SizeRequirements", "Tiling", "describe", "fitted", "padded"]


def describe(config: Mapping[str, Any]) -> Descriptor:
    """The network that ``config.json`` and the manifest hold as ``network`` and ``config``.

    Raises:
        UsageError: It is not the config of a network.
    """
    if "library" in config:
        return Descriptor.from_json(config)
    from aethernet.network.config import NetworkConfig

    return NetworkConfig.from_json(config).descriptor
